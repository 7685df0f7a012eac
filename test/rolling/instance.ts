// One of the instances behind the balancer: a real process, always on the same port.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Milliseconds between two readiness checks. */
const POLL_INTERVAL = 20
/** Milliseconds until the run fails because an instance did not start or stop. */
const PATIENCE = 60_000

export class Instance {
  readonly port: number
  readonly #program: string
  readonly #env: Record<string, string>
  #child: ChildProcess | undefined

  constructor (program: string, port: number, env: Record<string, string>) {
    this.port = port
    this.#program = program
    this.#env = { ...env, HOST: '127.0.0.1', PORT: String(port), TRUST_PROXY: '127.0.0.1' }
  }

  /** Starts it and waits until it is ready. */
  async start (): Promise<void> {
    this.#child = spawn(process.execPath, ['--import', 'tsx', this.#program], {
      cwd: ROOT, env: { ...process.env, ...this.#env }, stdio: ['ignore', 'ignore', 'inherit']
    })
    const end = performance.now() + PATIENCE
    while (!await isReady(this.port)) {
      if (this.#child.exitCode !== null || performance.now() > end) throw new Error(`The instance on port ${this.port} does not come up`)
      await sleep(POLL_INTERVAL)
    }
  }

  /** Sends SIGTERM, as a deploy does, and waits for the exit. Returns the exit code. */
  async stop (): Promise<number | null> {
    const child = this.#child as ChildProcess
    const gone = once(child, 'exit', { signal: AbortSignal.timeout(PATIENCE) }) as Promise<[code: number | null]>
    child.kill('SIGTERM')
    const [code] = await gone
    return code
  }

  /** Kills it, if it is running. */
  kill (): void {
    this.#child?.kill('SIGKILL')
  }
}

async function isReady (port: number): Promise<boolean> {
  try {
    return (await fetch(`http://127.0.0.1:${port}/ready`, { headers: { connection: 'close' } })).ok
  } catch {
    return false
  }
}
