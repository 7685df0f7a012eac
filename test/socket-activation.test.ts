// A listening socket that outlives the service: the parent process has opened it, and passes it to one process after another.

import t from 'tap'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import type { ShutdownReport } from '../types/index.ts'
import type { Program } from './helpers.ts'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { Agent, get } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { LONG, RawClient, TYPESCRIPT, eventually, fixture, freePort, portOf, runCommand } from './helpers.ts'

const RESTARTS = LONG ? 10 : 4
const RESTARTER = [process.execPath, ...TYPESCRIPT, fixture('restarter')]

interface Activated {
  parent: Program
  port: number
}

/** A plain parent process: its socket is opened here, and only it keeps it open. */
async function plainParent (t: Test, env: Record<string, string> = {}): Promise<Activated> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  // Node has no public way to get the file descriptor of a server.
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle // oxlint-disable-line no-underscore-dangle
  const parent = runCommand(t, RESTARTER, env, [fd])
  server.close()
  return { parent, port }
}

const hasSystemd = spawnSync('systemd-socket-activate', ['--version']).error === undefined

/** systemd-socket-activate opens the socket, and becomes the parent process on the first connection. */
async function underSystemd (t: Test, command: readonly string[], env: Record<string, string> = {}): Promise<Activated> {
  const port = await freePort()
  const passed = { ...env, ...process.env['NODE_V8_COVERAGE'] === undefined ? {} : { NODE_V8_COVERAGE: process.env['NODE_V8_COVERAGE'] } }
  const settings = Object.entries(passed).map(([name, value]) => `--setenv=${name}=${value}`)
  const parent = runCommand(t, ['systemd-socket-activate', `--listen=127.0.0.1:${port}`, ...settings, ...command])
  await eventually(() => /Listening on/.test(parent.output()))
  return { parent, port }
}

/** Sends requests until stopped, one after another; `answers` are their bodies, and `lost` is what else happened to them. */
class Load {
  readonly answers: string[] = []
  readonly lost: string[] = []
  /** How many requests were sent again, because their connection had just been closed. */
  repeated = 0
  readonly #stop = new AbortController()
  readonly #clients: Promise<void>[] = []

  constructor (port: number) {
    for (let index = 0; index < 24; index++) {
      this.#clients.push(this.#run(index % 2 === 0, port, index % 8 < 2 ? '/slow' : '/'))
    }
  }

  async #run (keepAlive: boolean, port: number, path: string): Promise<void> {
    const agent = new Agent({ keepAlive, maxSockets: 1 })
    while (!this.#stop.signal.aborted) {
      await this.#request(agent, port, path, keepAlive ? 'kept connection' : 'new connection')
      await sleep(Math.random() * 10)
    }
    agent.destroy()
  }

  /**
   * A kept connection may be closed just as the client sends on it. HTTP/1.1 has no remedy but another request, which clients send if
   * the connection was used before. Here, that happens only if the client pauses for longer than an idle connection is kept.
   */
  async #request (agent: Agent, port: number, path: string, kind: string): Promise<void> {
    const isClosed = await new Promise<boolean>(resolve => {
      const fail = (error: Error) => {
        this.lost.push(`${kind}: ${error.message}`)
        resolve(false)
      }
      const request = get({ port, host: '127.0.0.1', agent, path }, response => {
        let body = ''
        response.setEncoding('utf8').on('data', (chunk: string) => { body += chunk }).on('error', fail).on('end', () => {
          if (response.statusCode === 200) this.answers.push(body)
          else this.lost.push(`${kind}: ${response.statusCode}`)
          resolve(false)
        })
      }).on('error', (error: NodeJS.ErrnoException) => {
        // Once the response has begun, it gets the error itself.
        if (request.reusedSocket && error.code === 'ECONNRESET') resolve(true)
        else fail(error)
      })
    })
    if (!isClosed) return
    this.repeated++
    await this.#request(agent, port, path, kind)
  }

  /** How many processes have answered. */
  get processes (): number {
    return new Set(this.answers).size
  }

  async stop (): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#clients)
  }
}

async function restartUnderLoad (t: Test, { parent, port }: Activated): Promise<void> {
  const load = new Load(port)
  await eventually(() => load.processes === 1)
  for (let restart = 1; restart <= RESTARTS; restart++) {
    const before = load.answers.length
    await eventually(() => load.answers.length > before + 400)
    parent.kill('SIGHUP')
    await eventually(() => load.processes === restart + 1)
    await eventually(() => parent.log.messages(/service exited/).length === restart)
  }
  await load.stop()
  parent.kill('SIGTERM')
  await parent.exit
  t.strictSame(load.lost, [])
  t.comment(`${load.answers.length} requests, ${RESTARTS} restarts, ${load.lost.length} lost, ${load.repeated} sent again`)
  const reports = parent.log.lines.flatMap(({ report }) => report === undefined ? [] : [report as ShutdownReport])
  t.strictSame(reports.map(({ refused, cut, exitCode }) => ({ refused, cut, exitCode })),
    Array.from({ length: RESTARTS + 1 }, () => ({ refused: 0, cut: [], exitCode: 0 })))
}

for (const [name, env] of Object.entries({
  'when the next process starts after the exit': {},
  'when the next process starts during the shutdown': { OVERLAP: '1' },
  'with a delay': { OPTIONS: '{"shutdownDelay":200}' }
})) {
  t.test(`restarts under load lose no request on an inherited listener ${name}`, async t => {
    await restartUnderLoad(t, await plainParent(t, env))
  })
}

t.test('restarts under load lose no request with the socket of systemd', {
  skip: hasSystemd ? false : 'systemd-socket-activate is not installed'
}, async t => {
  await restartUnderLoad(t, await underSystemd(t, RESTARTER))
})

t.test('the example serves on the socket of systemd', {
  skip: hasSystemd ? false : 'systemd-socket-activate is not installed'
}, async t => {
  const server = fileURLToPath(new URL('../example/server.ts', import.meta.url))
  const database = join(t.testdir({}), 'notes.sqlite')
  const { parent, port } = await underSystemd(t, [process.execPath, ...TYPESCRIPT, server], { DATABASE: database, PORT: '1' })
  const client = new RawClient(port).get('/ready')
  await client.until(/"ready":true/)
  t.equal(await portOf(parent), port)
  parent.kill('SIGTERM')
  t.strictSame(await parent.exit, { code: 0, signal: null })
})

/** A process that drains, because it has a slow request in flight. */
async function draining (t: Test): Promise<Activated & { pid: string, slow: RawClient, idle: RawClient }> {
  const { parent, port } = await plainParent(t)
  const idle = new RawClient(port).get('/')
  await idle.until(/\r\n\r\n\d+$/)
  const pid = bodyOf(idle)
  const slow = new RawClient(port).get('/slow')
  await parent.log.line(/slow request is in/)
  parent.kill('SIGUSR2')
  await parent.log.line(/Waiting for 1 in-flight request/)
  return { parent, port, pid, slow, idle }
}

function bodyOf ({ text }: RawClient): string {
  return text.slice(text.lastIndexOf('\r\n') + 2)
}

t.test('a connection that arrives while the process drains is answered by the next one', async t => {
  const { parent, port, pid, slow } = await draining(t)
  const client = new RawClient(port).get('/')
  await once(client.socket, 'connect')
  await slow.closed
  t.match(slow.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close/i)
  t.equal(bodyOf(slow), pid)
  await parent.log.line(/service exited: 0/)
  const between = new RawClient(port).get('/')
  await once(between.socket, 'connect')
  t.equal(client.text, '')
  parent.kill('SIGALRM')
  await Promise.all([client, between].map(async one => { await one.until(/\r\n\r\n\d+$/) }))
  for (const { text } of [client, between]) t.match(text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: keep-alive/i)
  t.not(bodyOf(client), pid)
  t.equal(bodyOf(between), bodyOf(client))
})

t.test('a request on an open connection is served while the process drains, and is its last one', async t => {
  const { parent, pid, idle } = await draining(t)
  idle.text = ''
  await idle.get('/').closed
  t.match(idle.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close/i)
  t.equal(bodyOf(idle), pid)
  await parent.log.line(/service exited: 0/)
})

t.test('a request that arrives just after the last one in flight has ended is served', async t => {
  const { parent, pid, idle } = await draining(t)
  idle.text = ''
  await parent.log.line(/All requests drained/)
  await idle.get('/slow').closed
  t.match(idle.text, /^HTTP\/1\.1 200 OK/)
  t.equal(bodyOf(idle), pid)
  await parent.log.line(/service exited: 0/)
})

t.test('a connection that was accepted before the listener was closed has time to send a request', async t => {
  const { parent, port } = await plainParent(t, { OPTIONS: '{"shutdownDelay":300}' })
  await new RawClient(port).get('/').until(/\r\n\r\n\d+$/)
  parent.kill('SIGUSR2')
  await parent.log.line(/still serving/)
  const client = new RawClient(port)
  await parent.log.line(/All requests drained/)
  await client.get('/').closed
  t.match(client.text, /^HTTP\/1\.1 200 OK/)
  await parent.log.line(/service exited: 0/)
})
