// One of the instances behind the balancer: a real process, always on the same port.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { connect } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Milliseconds between two readiness checks. */
const POLL_INTERVAL = 20
/** Milliseconds until the run fails because an instance did not start or stop. */
const PATIENCE = 60_000

export interface Stopped {
  code: number | null
  /** Milliseconds that it has spent delaying, by the report in its log. */
  delaying: number
}

export class Instance {
  readonly port: number
  readonly #program: string
  readonly #env: Record<string, string>
  readonly #log: string
  #child: ChildProcess | undefined

  /** @param log the file for the log of its newest process */
  constructor (program: string, port: number, log: string, env: Record<string, string>) {
    this.port = port
    this.#program = program
    this.#log = log
    this.#env = { ...env, HOST: '127.0.0.1', PORT: String(port), TRUST_PROXY: '127.0.0.1' }
  }

  /** Starts it and waits until it is ready. */
  async start (): Promise<void> {
    const log = openSync(this.#log, 'w')
    this.#child = spawn(process.execPath, ['--import', 'tsx', this.#program], {
      cwd: ROOT, env: { ...process.env, ...this.#env }, stdio: ['ignore', log, 'inherit']
    })
    closeSync(log)
    const isReady = this.#env['HTTP2'] === '1' ? isReadyOverHttp2 : isReadyOverHttp1
    const end = performance.now() + PATIENCE
    while (!await isReady(this.port)) {
      if (this.#child.exitCode !== null || performance.now() > end) throw new Error(`The instance on port ${this.port} does not come up`)
      await sleep(POLL_INTERVAL)
    }
  }

  /** Sends SIGTERM, as a deploy does, and waits for the exit. */
  async stop (): Promise<Stopped> {
    const child = this.#child as ChildProcess
    const gone = once(child, 'exit', { signal: AbortSignal.timeout(PATIENCE) }) as Promise<[code: number | null]>
    child.kill('SIGTERM')
    const [code] = await gone
    const last = readFileSync(this.#log, 'utf8').split('\n').findLast(line => line.includes('"report":')) ?? '{}'
    const { report } = JSON.parse(last) as { report?: { phases: { delaying: number } } }
    return { code, delaying: report?.phases.delaying ?? NaN }
  }

  /** Kills it, if it is running. */
  kill (): void {
    this.#child?.kill('SIGKILL')
  }
}

async function isReadyOverHttp1 (port: number): Promise<boolean> {
  try {
    return (await fetch(`http://127.0.0.1:${port}/ready`, { headers: { connection: 'close' } })).ok
  } catch {
    return false
  }
}

async function isReadyOverHttp2 (port: number): Promise<boolean> {
  const session = connect(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  try {
    const [headers] = await once(session.request({ ':path': '/ready' }), 'response') as [{ ':status': number }]
    return headers[':status'] === 200
  } catch {
    return false
  } finally {
    session.destroy()
  }
}
