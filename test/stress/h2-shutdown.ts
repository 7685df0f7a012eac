// HTTP/2 shutdowns under load: sessions that read slowly, upload, reset streams and leave. On Node 20, a session that is
// closed inside a request handler corrupts the heap, and the process ends with SIGABRT or SIGSEGV after some rounds.
//
//   npm run test:stress [-- rounds]     300 by default, in two processes at a time

import type { ClientHttp2Session } from 'node:http2'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:http2'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export interface Outcome {
  rounds: number
  code: number | null
  signal: NodeJS.Signals | null
  /** The stderr of the program. */
  stderr: string
}

const SESSIONS = 12
const PATHS = ['/quick', '/slow', '/big', '/big', '/throws'] as const

/** Runs one process through this number of rounds. */
export async function stressHttp2 (rounds: number): Promise<Outcome> {
  const program = fileURLToPath(new URL('../fixtures/h2-rounds.ts', import.meta.url))
  // By way of `env`, because the test runner adds options to each Node process that it sees started.
  const typescript = `--import=${new URL('../typescript.mjs', import.meta.url).href}`
  const child = spawn('env', ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', process.execPath, typescript, program], {
    env: { ...process.env, ROUNDS: String(rounds) }, stdio: ['ignore', 'pipe', 'pipe']
  })
  const outcome: Outcome = { rounds: 0, code: null, signal: null, stderr: '' }
  child.stderr.on('data', (chunk: Buffer) => { outcome.stderr = (outcome.stderr + chunk.toString()).slice(-4_000) })
  const exited = once(child, 'close')
  createInterface(child.stdout).on('line', line => {
    const port = /round \d+ at port (\d+)/.exec(line)?.[1]
    if (port === undefined) return
    outcome.rounds++
    for (let index = 0; index < SESSIONS; index++) void visits(Number(port), index * 8)
  })
  const [code, signal] = await exited as [number | null, NodeJS.Signals | null]
  return { ...outcome, code, signal }
}

async function visits (port: number, after: number): Promise<void> {
  await sleep(after)
  for (let visit = 0; visit < 6; visit++) {
    const session = connect(`http://127.0.0.1:${port}`)
    if (!await isConnected(session)) return
    await use(session)
  }
}

async function isConnected (session: ClientHttp2Session): Promise<boolean> {
  return await new Promise(resolve => {
    session.on('error', () => {})
    session.once('connect', () => { resolve(true) })
    session.once('close', () => { resolve(false) })
  })
}

async function use (session: ClientHttp2Session): Promise<void> {
  while (!session.closed && !session.destroyed) {
    const requests = Array.from({ length: 1 + Math.floor(Math.random() * 4) }, async () => { await request(session) })
    if (Math.random() < 0.1) {
      await sleep(Math.random() * 40)
      session.destroy()
    }
    await Promise.all(requests)
    await sleep(Math.random() * 20)
  }
  session.destroy()
}

async function request (session: ClientHttp2Session): Promise<void> {
  const uploads = Math.random() < 0.25
  const readsSlowly = Math.random() < 0.3
  const path = uploads ? '/upload' : PATHS[Math.floor(Math.random() * PATHS.length)]
  const headers = { ':path': path, ...uploads ? { ':method': 'POST', 'content-type': 'text/plain' } : {} }
  await new Promise<void>(resolve => {
    try {
      const stream = session.request(headers, { endStream: !uploads })
      stream.on('error', () => {})
      stream.on('close', resolve)
      stream.on('data', () => {
        if (!readsSlowly) return
        stream.pause()
        setTimeout(() => { stream.resume() }, 5)
      })
      if (uploads) stream.end(Buffer.alloc(Math.random() * 500_000))
      if (Math.random() < 0.3) setTimeout(() => { stream.close(8) }, Math.random() * 60)
    } catch {
      // The session has just closed.
      resolve()
    }
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const share = Math.ceil(Number(process.argv[2] ?? 300) / 2)
  const outcomes = await Promise.all([stressHttp2(share), stressHttp2(share)])
  for (const { rounds, code, signal, stderr } of outcomes) {
    console.log(`${process.version}: ${signal ?? `exit code ${code}`} after ${rounds} shutdowns ${stderr.trim().split('\n')[0]}`)
    if (code !== 0 || rounds !== share) process.exitCode = 1
  }
}
