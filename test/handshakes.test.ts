// Requests that listeners of the server's 'upgrade' and 'connect' events answer, after work of their own.

import t from 'tap'
import type { AddressInfo } from 'node:net'
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2'
import type { Duplex } from 'node:stream'
import type { Test } from 'tap'
import type { GracefulOptions } from '../types/index.ts'
import type { TestApp } from './helpers.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, IncomingMessage, ServerResponse } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { connect, Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { createCredentials } from './credentials.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import { createApp, Deferred, eventually, HANDSHAKE, heldRoute, listen, listenOnLocalhost, RawClient } from './helpers.ts'

const REQUESTS = {
  upgrade: ['GET /chat?token=secret HTTP/1.1', 'Host: x', ...HANDSHAKE, '', ''].join('\r\n'),
  connect: 'CONNECT upstream:443 HTTP/1.1\r\nHost: upstream\r\n\r\n'
}
const NAMES = { upgrade: 'upgrade listener (GET /chat)', connect: 'connect listener (CONNECT upstream:443)' }
const ANSWER = 'HTTP/1.1 200 Accepted\r\n\r\n'

interface Held extends TestApp {
  port: number
  /** The first request for the listener. */
  arrival: Promise<{ request: IncomingMessage, socket: Duplex }>
}

/** A service with a listener that answers nothing by itself. */
async function createHolding (t: Test, event: keyof typeof REQUESTS, options: GracefulOptions = {}, server: object = {}): Promise<Held> {
  const { app, log } = await createApp(t, options, server)
  const { promise: arrival, resolve } = new Deferred<{ request: IncomingMessage, socket: Duplex }>()
  app.server.on(event, (request: IncomingMessage, socket: Duplex) => {
    // As an application does: an error without a listener is an uncaught one.
    socket.on('error', () => {})
    resolve({ request, socket })
  })
  return { app, log, port: await listen(app), arrival }
}

for (const event of ['upgrade', 'connect'] as const) {
  for (const protocol of ['HTTP', 'HTTPS']) {
    t.test(`${protocol}: a shutdown waits until the ${event} listener has answered`, async t => {
      const { app, log, port, arrival } = await createHolding(t, event, {}, protocol === 'HTTPS' ? { https: await createCredentials() } : {})
      const done: string[] = []
      app.registerShutdownCallback(() => { done.push('callback') })
      const client = new RawClient(protocol === 'HTTPS' ? connectTls({ port, rejectUnauthorized: false }) : port)
      client.send(REQUESTS[event])
      const { socket } = await arrival
      t.match(app.gracefulShutdown.inFlight(), [{ kind: 'task', name: NAMES[event] }])
      const report = app.gracefulShutdown.shutdown()
      await log.line(/^Waiting for 1 background task/)
      done.push('answer')
      socket.end(ANSWER)
      await client.until(/200 Accepted/)
      t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0, slowest: [{ name: NAMES[event] }] })
      t.strictSame(done, ['answer', 'callback'])
    })
  }

  t.test(`a listener for ${event} that never answers is named at the drain timeout`, async t => {
    const { app, port, arrival } = await createHolding(t, event, { shutdownTimeout: 2_000, drainTimeout: 200 })
    const client = new RawClient(port).send(REQUESTS[event])
    await arrival
    t.match(await app.gracefulShutdown.shutdown(), { cut: [{ kind: 'task', name: NAMES[event] }], exitCode: 1 })
    await client.closed
  })

  for (const [how, answer] of Object.entries({
    'writes an answer': (socket: Duplex) => { socket.write(ANSWER) },
    'ends the connection without an answer': (socket: Duplex) => { socket.end() },
    'destroys the connection': (socket: Duplex) => { socket.destroy() }
  })) {
    t.test(`once a listener for ${event} ${how}, nothing is in flight, and the socket is as before`, async t => {
      const { app, port, arrival } = await createHolding(t, event)
      const client = new RawClient(port).send(REQUESTS[event])
      const { socket } = await arrival
      answer(socket)
      await eventually(() => app.gracefulShutdown.inFlight().length === 0)
      t.notOk(Object.hasOwn(socket, 'write'))
      client.socket.destroy()
    })
  }

  t.test(`once the client of a listener for ${event} has disconnected, nothing is in flight`, async t => {
    const { app, port, arrival } = await createHolding(t, event)
    const client = new RawClient(port).send(REQUESTS[event])
    const { socket } = await arrival
    client.socket.resetAndDestroy()
    socket.resume()
    await eventually(() => app.gracefulShutdown.inFlight().length === 0)
    t.ok(socket.destroyed)
  })
}

t.test('listeners that are observed look as without the plugin, and can be removed; others are not changed', async t => {
  const [before, other, after, first, single] = [() => {}, () => {}, () => {}, () => {}, () => {}]
  const server = createServer().on('upgrade', before).once('upgrade', single).on('upgrade', other)
  const { app } = await createApp(t, {}, { serverFactory: handler => server.on('request', handler) })
  server.on('upgrade', after).prependListener('upgrade', first).once('upgrade', single)
  t.strictSame(server.listeners('upgrade'), [first, before, single, other, after, single])
  const socket = new Socket()
  server.emit('upgrade', new IncomingMessage(socket), socket, Buffer.alloc(0))
  t.strictSame(server.listeners('upgrade'), [first, before, other, after])
  for (const listener of [before, other, after, first]) server.off('upgrade', listener)
  t.strictSame(server.listeners('upgrade'), [])
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  server.on('listening', first)
  t.ok(server.rawListeners('listening').includes(first))
})

t.test('HTTP/2: a shutdown waits until the connect listener has answered, and not for the tunnel', async t => {
  const { app, log } = await createApp(t, {}, { http2: true } as object)
  const arrival = new Deferred<Http2ServerResponse>()
  app.server.on('connect', (_request: Http2ServerRequest, response: Http2ServerResponse) => { arrival.resolve(response) })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':method': 'CONNECT', ':authority': 'upstream:443' }).on('error', () => {})
  const response = await arrival.promise
  t.match(app.gracefulShutdown.inFlight(), [{ kind: 'task', name: 'connect listener (CONNECT' }])
  const report = app.gracefulShutdown.shutdown()
  await log.line(/^Waiting for 1 background task/)
  response.writeHead(200)
  const [headers] = await once(stream, 'response') as [{ ':status': number }]
  t.equal(headers[':status'], 200)
  t.match(await report, { cut: { length: 0 }, exitCode: 0, slowest: [{ kind: 'task' }] })
})

for (const [how, leave] of Object.entries({
  'has been passed to another process': (t: Test, socket: Duplex) => {
    const closes = "process.on('message', (message, socket) => socket.destroy())"
    const child = spawn(process.execPath, ['--eval', closes], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    t.teardown(() => child.kill())
    child.send('take it', socket as Socket)
  },
  'has been destroyed, without any of its listeners,': (_t: Test, socket: Duplex) => { socket.removeAllListeners().destroy() }
})) {
  t.test(`a socket that ${how} is not waited for`, async t => {
    const { app, port, arrival } = await createHolding(t, 'upgrade', { readTimeout: 100 })
    const client = new RawClient(port).send(REQUESTS.upgrade)
    const { socket } = await arrival
    t.equal(app.gracefulShutdown.inFlight().length, 1)
    leave(t, socket)
    await client.closed
    await eventually(() => app.gracefulShutdown.inFlight().length === 0)
    const { phases } = await app.gracefulShutdown.shutdown()
    t.ok(phases.closing < 500, `closing took ${phases.closing} ms`)
  })
}

t.test('events that other code emits with anything reach their listeners', async t => {
  const { app } = await createApp(t)
  const got: unknown[][] = []
  app.server.on('upgrade', (...args: unknown[]) => { got.push(args) })
  const request = new IncomingMessage(new Socket())
  const given = [[], [request, { write () {} }], [{}, {}], [request, new PassThrough()]]
  for (const args of given) app.server.emit('upgrade', ...args)
  t.strictSame(got.map(([first]) => first), given.map(([first]) => first))
  t.strictSame(app.gracefulShutdown.inFlight(), [])
})

t.test('a listener that was there before the plugin is waited for', async t => {
  const arrival = new Deferred<Duplex>()
  const server = createServer().on('upgrade', (_request, socket) => { arrival.resolve(socket.on('error', () => {})) })
  const { app, log } = await createApp(t, {}, { serverFactory: handler => server.on('request', handler) })
  const client = new RawClient(await listen(app)).send(REQUESTS.upgrade)
  const socket = await arrival.promise
  const report = app.gracefulShutdown.shutdown()
  await log.line(/^Waiting for 1 background task/)
  socket.end(ANSWER)
  await client.until(/200 Accepted/)
  t.match(await report, { exitCode: 0, slowest: [{ name: NAMES.upgrade }] })
})

t.test("the name of a listener that has not answered has what the logger's serializer shows of the URL, without the query", async t => {
  for (const [shown, name] of [[undefined, 'GET'], ['/hidden?token=secret', 'GET /hidden']] as const) {
    const logger = { level: 'silent', serializers: { req: () => ({ url: shown }) } }
    const { app, port, arrival } = await createHolding(t, 'upgrade', {}, { logger })
    const client = new RawClient(port).send(REQUESTS.upgrade)
    const { socket } = await arrival
    t.match(app.gracefulShutdown.inFlight(), [{ name: `upgrade listener (${name})` }])
    socket.destroy()
    await client.closed
  }
})

t.test('an upgrade that its listener passes to Fastify is a request from then on', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app, '/chat')
  const passing = new Deferred()
  app.server.on('upgrade', (request: IncomingMessage, socket: Socket): void => {
    const response = new ServerResponse(request)
    response.assignSocket(socket)
    void passing.promise.then(() => { app.routing(request, response) })
  })
  const port = await listen(app)
  const client = new RawClient(port).send(REQUESTS.upgrade)
  await eventually(() => app.gracefulShutdown.inFlight().length === 1)
  t.match(app.gracefulShutdown.inFlight(), [{ kind: 'task', name: NAMES.upgrade }])
  passing.resolve()
  await held.entered
  await eventually(() => app.gracefulShutdown.inFlight().length === 1)
  t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request', route: '/chat' }])
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await client.until(/200 OK/)
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('an upgrade that no listener gets is not waited for: of the second server for localhost, which passes it on', async t => {
  t.teardown(resolveToBothLoopbacks())
  const { app } = await createApp(t)
  const passed = new Deferred()
  const { emit } = app.server
  app.server.emit = (event: string, ...args: unknown[]) => {
    const isHeard = Reflect.apply(emit, app.server, [event, ...args])
    if (event === 'upgrade') passed.resolve()
    return isHeard
  }
  await listenOnLocalhost(app)
  const { address, port } = app.server.address() as AddressInfo
  const [first, second] = [address, address === '::1' ? '127.0.0.1' : '::1'].map(host => new RawClient(connect(port, host)).send(REQUESTS.upgrade))
  // Without a listener, Node passes it to Fastify.
  await Promise.all([first?.until(/404 Not Found/), passed.promise])
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  const report = await app.gracefulShutdown.shutdown()
  // Fastify does not wait for it either.
  second?.socket.destroy()
  t.match(report, { cut: { length: 0 }, slowest: { length: 0 }, exitCode: 0 })
})
