// If nothing is in flight, nothing delays the exit.

import t from 'tap'
import type { Test } from 'tap'
import type { ShutdownReport } from '../../index.ts'
import type { Program } from '../helpers.ts'
import type { Socket } from 'node:net'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { every, fork, LONG, portOf, RawClient } from '../helpers.ts'

/** How much longer than without any connection the process may take from SIGTERM to its exit, in milliseconds. */
const LIMIT = 300

const MANY = LONG ? 5_000 : 500

/** Other load on the machine only adds to a time, so the best of this many runs shows what the service itself takes. */
const TRIES = 3

async function best (measure: () => Promise<number>): Promise<number> {
  let least = Infinity
  for (let tries = 0; tries < TRIES && least >= LIMIT; tries++) least = Math.min(least, await measure())
  return least
}

async function startService (t: Test, protocol: string, options = {}): Promise<{ service: Program, port: number }> {
  const service = fork(t, 'answers', { PROTOCOL: protocol, OPTIONS: JSON.stringify(options) })
  const { ports: [port] } = await service.log.line(/^ready$/) as unknown as { ports: [number] }
  return { service, port }
}

/** Milliseconds from SIGTERM until the process has exited. */
async function stop (t: Test, service: Program): Promise<number> {
  const start = performance.now()
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
  return performance.now() - start
}

const tcp = async (port: number): Promise<Socket> => {
  const socket = connectTcp(port, '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}
const tls = async (port: number): Promise<Socket> => {
  const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
  socket.on('error', () => {})
  await once(socket, 'secureConnect')
  return socket
}

type Connect = (port: number) => Promise<Socket>
type Idle = (port: number) => Promise<unknown>

const silent = (connect: Connect): Idle => async port => await connect(port)
const halfSent = (connect: Connect, text: string): Idle => async port => { (await connect(port)).write(text) }
const keptAlive = (connect: Connect): Idle => async port => {
  await new RawClient(await connect(port)).get('/').until(/served$/)
}
const idleSession = (scheme: string): Idle => async port => {
  const session = connectHttp2(`${scheme}://127.0.0.1:${port}`, { rejectUnauthorized: false })
  session.on('error', () => {})
  await once(session, 'remoteSettings')
}

const kinds: Array<[what: string, protocol: string, idle: Idle]> = [
  ['a silent connection', 'http', silent(tcp)],
  ['a half-sent request line', 'http', halfSent(tcp, 'GET / HT')],
  ['half-sent headers', 'http', halfSent(tcp, 'GET / HTTP/1.1\r\nHost: x\r\nAccept')],
  ['an idle keep-alive connection', 'http', keptAlive(tcp)],
  ['a TLS handshake that never starts', 'https', silent(tcp)],
  ['a TLS handshake that never ends', 'https', halfSent(tcp, '\x16\x03\x01')],
  ['a silent connection', 'https', silent(tls)],
  ['half-sent headers', 'https', halfSent(tls, 'GET / HTTP/1.1\r\nHost: x\r\nAccept')],
  ['an idle keep-alive connection', 'https', keptAlive(tls)],
  ['an idle session', 'http2', idleSession('http')],
  ['a silent connection', 'http2', silent(tcp)],
  ['a silent connection', 'https2', silent(tls)],
  ['an idle session', 'https2', idleSession('https')],
  ['a TLS handshake that never starts', 'https2', silent(tcp)],
  ['a silent connection', 'https1+2', silent(tls)],
  ['half-sent headers', 'https1+2', halfSent(tls, 'GET / HTTP/1.1\r\nHost: x\r\nAccept')],
  ['an idle keep-alive connection', 'https1+2', keptAlive(tls)],
  ['an idle session', 'https1+2', idleSession('https')],
  ['a TLS handshake that never starts', 'https1+2', silent(tcp)]
]

/**
 * For each protocol, an exchange with the service. A client is connected before the service has accepted it, and
 * a connection accepted during shutdown has a moment to send a request. Once a later connection has been served, all earlier
 * ones have been accepted.
 */
const lastConnection = {
  http: keptAlive(tcp), https: silent(tls), http2: idleSession('http'), https2: idleSession('https'), 'https1+2': idleSession('https')
}

for (const [protocol, connectLast] of Object.entries(lastConnection)) {
  t.test(`${protocol}: idle connections do not delay the exit`, async t => {
    const timeWith = async (idle: readonly Idle[]): Promise<number> => {
      const { service, port } = await startService(t, protocol)
      for (const connect of [...idle, connectLast]) await connect(port)
      return await stop(t, service)
    }
    const ours = kinds.filter(([, its]) => its === protocol)
    const each = LONG ? ours.map(([what,, idle]) => [what, [idle]] as const) : []
    const cases = [...each, [ours.map(([what]) => what).join(', '), ours.map(([,, idle]) => idle)] as const]
    for (const [what, idle] of cases) {
      const more = await best(async () => await timeWith(idle) - await timeWith([]))
      t.ok(more < LIMIT, `${what}: gone ${Math.round(more)}ms later than without any connection`)
    }
  })
}

t.test(`${MANY} idle keep-alive connections do not delay the exit`, async t => {
  // At intervals of a tenth of the read timeout, the plugin notes whether a request has arrived. A stalled machine does not exceed it.
  const readTimeout = 3_000
  const timeWith = async (service: Program, port: number): Promise<number> => {
    const connect = keptAlive(tcp)
    for (let batch = 0; batch < MANY / 100; batch++) await Promise.all(Array.from({ length: 100 }, async () => { await connect(port) }))
    await sleep(readTimeout / 5)
    return await stop(t, service)
  }
  // Closing this many sockets takes time with any server.
  const drains: number[] = []
  const more = await best(async () => {
    const bare = fork(t, 'bare')
    const least = await timeWith(bare, await portOf(bare))
    const { service, port } = await startService(t, 'http', { readTimeout })
    const time = await timeWith(service, port)
    const { report } = await service.log.line(/^Graceful shutdown complete$/) as unknown as { report: ShutdownReport }
    drains.push(report.phases.draining)
    // On a machine that has stalled, the plugin has noted the last requests only now.
    return report.phases.draining < 90 ? time - least : Infinity
  })
  t.ok(more < LIMIT, `gone ${Math.round(more)}ms later than bare Fastify`)
  t.ok(Math.min(...drains) < 90, `no request has arrived recently, so the drain does not wait: ${drains.join(', ')}ms`)
})

t.test('a client that sends headers slowly is disconnected when the drain is over, at the drain timeout at the latest', async t => {
  for (const stuck of [false, true]) {
    const { service, port } = await startService(t, 'http', { drainTimeout: 1_000, readTimeout: false })
    const client = new RawClient(await tcp(port)).send('GET / HTTP/1.1\r\nHost: x\r\nX-Long: ')
    if (stuck) {
      new RawClient(port).get('/stuck')
      await service.log.line(/request is in/)
    }
    const stopSending = every(t, 10, () => { client.send('x') })
    const told = performance.now()
    service.kill('SIGTERM')
    await client.closed
    stopSending()
    const time = performance.now() - told
    t.strictSame(await service.exit, { code: stuck ? 1 : 0, signal: null })
    t.ok(stuck ? time >= 990 && time < 2_500 : time < 1_000, `gone after ${Math.round(time)}ms`)
  }
})
