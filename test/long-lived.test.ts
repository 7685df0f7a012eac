// Connections that stay open: told to end when a shutdown starts, and ended when it closes.

import t from 'tap'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { ClientHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { once, type EventEmitter } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { PassThrough, type Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import httpProxy from '@fastify/http-proxy'
import sse from '@fastify/sse'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { WebSocket } from 'undici'
import gracefulPlugin from '../index.ts'
import { testShutdown } from '../lib/testing/index.ts'
import { createCredentials } from './credentials.ts'
import { createApp, Deferred, eventually, expectWarnings, HANDSHAKE, heldRoute, listen, NO_REUSE_PORT, phaseBegins, RawClient } from './helpers.ts'

/** The close frame with which a client answers 1001; masked with zeros. */
const CLOSE_ANSWER = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])

interface Greeted {
  client: WebSocket
  closed: Promise<{ code: number, reason: string }>
}

/** A WebSocket client that the server has greeted, and the code with which it will be closed. */
async function connectWebSocket (port: number, path: string): Promise<Greeted> {
  const client = new WebSocket(`ws://127.0.0.1:${port}${path}`)
  const closed = once(client as unknown as EventTarget, 'close') as Promise<[{ code: number, reason: string }]>
  await once(client as unknown as EventTarget, 'message')
  return { client, closed: closed.then(([{ code, reason }]) => ({ code, reason })) }
}

for (const where of ['root', 'encapsulated']) {
  t.test(`WebSockets stay usable during the shutdownDelay, and get 1001 when the drain starts (${where})`, async t => {
    const { app } = await createApp(t, { shutdownDelay: 4_000 })
    if (where === 'root') await app.register(websocket)
    app.register(async instance => {
      if (where !== 'root') await instance.register(websocket)
      instance.get('/ws', { websocket: true }, socket => {
        socket.send('hello')
        socket.on('message', (data: Buffer) => { socket.send(`echo ${data.toString()}`) })
      })
    })
    const held = heldRoute(app)
    const port = await listen(app)
    const sockets = [await connectWebSocket(port, '/ws'), await connectWebSocket(port, '/ws')]
    const busy = new RawClient(port).get('/held')
    await held.entered
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    for (const { client } of sockets) {
      const echo = once(client as unknown as EventTarget, 'message') as Promise<[{ data: string }]>
      client.send('still there?')
      t.equal((await echo)[0].data, 'echo still there?')
    }
    t.equal(app.gracefulShutdown.phase, 'delaying')
    app.gracefulShutdown.skipDelay()
    for (const { closed } of sockets) t.match(await closed, { code: 1001 })
    t.equal(app.gracefulShutdown.phase, 'draining', 'before the requests in flight have ended')
    held.release()
    await busy.closed
    t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('cleanup runs, and preClose hooks as draining starts, although the close() of a WebSocket cannot be replaced', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => {
      socket.send('hello')
      Object.defineProperty(socket, 'close', { value: socket.close.bind(socket), writable: false })
    })
  })
  const ran: string[] = []
  app.addHook('preClose', async () => { ran.push(`preClose while ${app.gracefulShutdown.phase}`) })
  app.addHook('onClose', async () => { ran.push('onClose') })
  app.registerShutdownCallback(() => { ran.push('callback') })
  const { closed } = await connectWebSocket(await listen(app), '/ws')
  const { errors, exitCode } = await app.gracefulShutdown.shutdown()
  await closed
  t.strictSame(errors, [])
  t.equal(exitCode, 0)
  t.strictSame(ran, ['preClose while draining', 'onClose', 'callback'])
  await app.close()
})

t.test("a close code that the user's code sends is kept", async t => {
  const { app } = await createApp(t)
  await app.register(websocket, {
    preClose (done) {
      for (const client of this.websocketServer.clients) {
        client.send('bye')
        client.close(4000, 'mine')
      }
      done()
    }
  })
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  const { client, closed } = await connectWebSocket(await listen(app), '/ws')
  const last = once(client as unknown as EventTarget, 'message') as Promise<[{ data: string }]>
  const report = app.gracefulShutdown.shutdown()
  t.equal((await last)[0].data, 'bye')
  t.strictSame(await closed, { code: 4000, reason: 'mine' })
  t.match(await report, { exitCode: 0 })
})

for (const spread of [0, 100]) {
  t.test(`a WebSocket server without a list of its clients does not disturb the shutdown, with a spread of ${spread} ms`, async t => {
    const { app } = await createApp(t, { spread })
    const ran: string[] = []
    await app.register(websocket, { options: { clientTracking: false } })
    app.register(async instance => {
      instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
    })
    app.addHook('onClose', async () => { ran.push('onClose') })
    app.registerShutdownCallback(() => { ran.push('callback') })
    const { client } = await connectWebSocket(await listen(app), '/ws')
    client.close()
    await app.close()
    t.strictSame(ran, ['onClose', 'callback'])
    t.match(await app.gracefulShutdown.wait(), { errors: { length: 0 }, exitCode: 0 })
  })
}

for (const protocol of ['HTTP/1', 'HTTP/2']) {
  t.test(`${protocol}: onShutdown: 'end' ends an event stream that is read although HEAD has been answered`, async t => {
    const { app } = await createApp(t, {}, protocol === 'HTTP/2' ? { http2: true } as object : {})
    const events = new PassThrough()
    app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => reply.type('text/event-stream').send(events))
    const port = await listen(app)
    if (protocol === 'HTTP/1') {
      await new RawClient(port).send('HEAD / HTTP/1.1\r\nHost: x\r\n\r\n').until(/^HTTP\/1\.1 200 /)
    } else {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      t.teardown(() => { session.destroy() })
      await once(session.request({ ':path': '/', ':method': 'HEAD' }), 'response')
    }
    t.equal(app.inFlightRequests, 1, 'Fastify still reads it')
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
    t.equal(events.destroyed, true)
  })
}

t.test("onShutdown: 'end' leaves a stream alone that is still read after another answer", async t => {
  const { app } = await createApp(t)
  const rows: string[] = []
  const upload = new PassThrough()
  app.addHook('onSend', async (_request, _reply, payload) => {
    (payload as PassThrough).on('data', (row: Buffer) => { rows.push(row.toString()) })
    return 'accepted'
  })
  app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => reply.code(202).send(upload))
  await new RawClient(await listen(app)).get('/').until(/accepted/)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  await sleep(20)
  upload.end('last')
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.strictSame(rows, ['last'])
})

t.test("onShutdown: 'end': the drain goes on although the destroy() of a stream that is read for HEAD throws", async t => {
  const { app } = await createApp(t)
  const { entered, release } = heldRoute(app)
  const events = new PassThrough()
  app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => reply.type('text/event-stream').send(events))
  const port = await listen(app)
  await new RawClient(port).send('HEAD / HTTP/1.1\r\nHost: x\r\n\r\n').until(/^HTTP\/1\.1 200 /)
  const { destroy } = events
  events.destroy = () => { throw new Error('on purpose') }
  const client = new RawClient(port).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  await sleep(20)
  t.equal(app.gracefulShutdown.phase, 'draining')
  events.destroy = destroy
  events.destroy()
  release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 /)
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

t.test("a stream that onShutdown: 'end' cannot end, because its end() has been replaced and throws, is cut at the drain timeout", async t => {
  const { app } = await createApp(t, { drainTimeout: 200 })
  app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200).write('begun')
    reply.raw.end = () => { throw undefined } // oxlint-disable-line no-throw-literal
  })
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/begun/)
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ url: '/' }], errors: { length: 0 }, exitCode: 1 })
  await client.closed
})

/** How a handler may begin a response of ten bytes. */
const sized: Record<string, (reply: FastifyReply) => (body: string) => void> = {
  'a stream': reply => {
    const stream = new PassThrough()
    void reply.header('content-length', 10).send(stream)
    return body => { stream.end(body) }
  },
  'writeHead()': reply => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-length': 10 }).flushHeaders()
    return body => { reply.raw.end(body) }
  },
  'writeHead() and half of the body': reply => {
    reply.hijack()
    reply.raw.writeHead(200, 'OK', { 'Content-Length': '10' }).write('half')
    return body => { reply.raw.end(body.slice(4)) }
  },
  'the HTTP/2 stream': reply => {
    reply.hijack()
    const { stream } = reply.raw as unknown as { stream: ServerHttp2Stream }
    stream.respond({ ':status': 200, 'content-length': 10 })
    return body => { stream.end(body) }
  }
}

t.test("with onShutdown: 'end', an end() that has been replaced and ends later causes no error", async t => {
  const { app } = await createApp(t)
  const begun = new Deferred()
  app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => {
    reply.hijack()
    const { raw } = reply
    const end = raw.end.bind(raw) as () => void
    raw.writeHead(200, { 'content-length': 10 }).write('begun')
    Object.assign(raw, { end: () => { setImmediate(end) } })
    begun.resolve()
  })
  const client = new RawClient(await listen(app)).get('/')
  await begun.promise
  await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /begun$/)
})

for (const isHttp2 of [false, true]) {
  for (const [how, begin] of Object.entries(sized)) {
    if (how === 'the HTTP/2 stream' && !isHttp2) continue
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: onShutdown: 'end' does not truncate a response with a content-length, begun by ${how}`, async t => {
      expectWarnings(t, /Status message is not supported/)
      const { app, log } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
      const begun = new Deferred<(body: string) => void>()
      app.get('/', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => { begun.resolve(begin(reply)) })
      const body = read(isHttp2, await listen(app), '/')
      const end = await begun.promise
      const report = app.gracefulShutdown.shutdown()
      await log.line(/^Waiting for 1 in-flight/)
      // The second line: in the meantime, responses that have begun late are ended.
      await eventually(() => log.messages(/^Waiting for 1 in-flight/).length === 2)
      end('half whole')
      t.equal(await body, 'half whole')
      t.match(await report, { cut: { length: 0 }, completed: 1, exitCode: 0 })
    })
  }
}

for (const [listens, where] of [[true, 'that listens'], [false, 'that does not listen']] as const) {
  for (const context of [{}, { socket: { remoteAddress: '192.0.2.1' } }]) {
    const given = 'socket' in context ? ', with a socket of the test' : ''
    t.test(`injectWS() works on an instance ${where}${given}, and its WebSocket gets 1001 without delay`, async t => {
      const { app } = await createApp(t)
      await app.register(websocket)
      const served = new Deferred<EventEmitter>()
      app.register(async instance => {
        instance.get('/ws', { websocket: true }, socket => {
          served.resolve(socket)
          socket.on('message', (data: Buffer) => { socket.send(`echo ${data.toString()}`) })
        })
      })
      await (listens ? listen(app) : app.ready())
      const client = await app.injectWS('/ws', context as object)
      const echo = once(client, 'message') as Promise<[Buffer]>
      client.send('hello')
      t.equal((await echo)[0].toString(), 'echo hello')
      t.equal(app.inFlightRequests, 0)
      const closed = once(client, 'close') as Promise<[number]>
      const serverClosed = once(await served.promise, 'close')
      await app.close()
      t.equal((await closed)[0], 1001)
      // Otherwise, its timer would keep the process for half a minute.
      await serverClosed
      const { cut, errors, phases, exitCode } = await app.gracefulShutdown.wait()
      t.match({ cut, errors, exitCode }, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      t.ok(phases.draining < 500, `${phases.draining} ms`)
    })
  }
}

t.test('a WebSocket of injectWS() that its client has closed does not delay the shutdown', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  app.register(async instance => { instance.get('/ws', { websocket: true }, () => {}) })
  await listen(app)
  const client = await app.injectWS('/ws')
  client.close()
  await once(client, 'close')
  await app.close()
  const { phases } = await app.gracefulShutdown.wait()
  t.ok(phases.draining < 500, `${phases.draining} ms`)
})

for (const spread of [0, 100]) {
  t.test(`beside one of injectWS(), the answer of a real WebSocket client is waited for (spread ${spread})`, async t => {
    const { app } = await createApp(t, { spread })
    await app.register(websocket)
    app.register(async instance => { instance.get('/ws', { websocket: true }, socket => { socket.send('hello') }) })
    const real = new RawClient(await listen(app))
    real.get('/ws', HANDSHAKE)
    await real.until(/hello/)
    const injected = once(await app.injectWS('/ws'), 'close') as Promise<[number]>
    const shutdown = app.gracefulShutdown.shutdown()
    await real.until(/\x88\x02\x03\xe9/) // oxlint-disable-line no-control-regex
    await sleep(100)
    real.socket.write(CLOSE_ANSWER)
    t.equal((await injected)[0], 1001)
    const { phases, exitCode } = await shutdown
    t.equal(exitCode, 0)
    t.ok(phases.draining >= 95 && phases.draining < 900, `${phases.draining} ms`)
  })
}

t.test("a WebSocket for which the application emits 'connection' again, without a request, is waited for", async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => {
      app.websocketServer.emit('connection', socket)
      socket.send('hello')
    })
  })
  const client = new RawClient(await listen(app))
  client.get('/ws', HANDSHAKE)
  await client.until(/hello/)
  const shutdown = app.gracefulShutdown.shutdown()
  await client.until(/\x88\x02\x03\xe9/) // oxlint-disable-line no-control-regex
  await sleep(50)
  client.socket.write(CLOSE_ANSWER)
  const { phases } = await shutdown
  t.ok(phases.draining >= 45 && phases.draining < 900, `${phases.draining} ms`)
})

t.test('injectWS() during the drain, with a socket of the test, is refused', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  const held = heldRoute(app)
  app.register(async instance => { instance.get('/ws', { websocket: true }, () => {}) })
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await t.rejects(app.injectWS('/ws', { socket: { remoteAddress: '192.0.2.1' } } as object), { message: 'Unexpected server response: 503' })
  held.release()
  await client.closed
  t.match(client.text, /200 OK/)
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

t.test('a WebSocket client that does not answer the close frame is not waited for', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  const client = new RawClient(await listen(app))
  client.get('/ws', HANDSHAKE)
  await client.until(/hello/)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /\x88\x02\x03\xe9$/, '1001') // oxlint-disable-line no-control-regex
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
  t.ok(report.phases.closing < 2_000, `closing took ${report.phases.closing}ms`)
})

interface Proxied {
  app: FastifyInstance
  port: number
  /** The client of a WebSocket, which does not answer the close frame. */
  client: RawClient
  held: ReturnType<typeof heldRoute>
  /** The onClose hooks that have run. */
  ran: string[]
}

/** An instance with a WebSocket through @fastify/http-proxy, whose replaced server.close() stops listening once that has closed. */
async function createProxied (t: Test, { isTls = false, isFirst = false, listenOptions = {} } = {}): Promise<Proxied> {
  const { app: upstream } = await createApp(t)
  await upstream.register(websocket)
  upstream.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  const proxy = { upstream: `http://127.0.0.1:${await listen(upstream)}`, websocket: true }
  const app = Fastify(isTls ? { https: await createCredentials() } as object : {}) as FastifyInstance
  t.teardown(async () => { await app.close() })
  if (isFirst) await app.register(httpProxy, proxy)
  await app.register(gracefulPlugin, { shutdownTimeout: 8_000, signals: false })
  if (!isFirst) await app.register(httpProxy, proxy)
  const held = heldRoute(app)
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  await app.listen({ port: 0, host: '127.0.0.1', ...listenOptions } as object)
  const { port } = app.server.address() as AddressInfo
  const client = new RawClient(isTls ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : port).get('/ws', HANDSHAKE)
  await client.until(/101 Switching Protocols[^]*hello/)
  return { app, port, client, held, ran }
}

for (const isTls of [false, true]) {
  for (const isFirst of [false, true]) {
    const how = `${isTls ? 'HTTPS' : 'HTTP'}, registered ${isFirst ? 'before' : 'after'} the plugin`
    t.test(`a WebSocket through @fastify/http-proxy whose client does not answer the close frame is destroyed, and onClose hooks run (${how})`, async t => {
      const { app, port, client, ran } = await createProxied(t, { isTls, isFirst })
      const idle = new RawClient(port)
      await once(idle.socket, 'connect')
      const report = await app.gracefulShutdown.shutdown()
      t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      t.ok(report.phases.closing < 3_000, `closing took ${report.phases.closing} ms`)
      t.strictSame(ran, ['onClose'])
      await Promise.all([client.closed, idle.closed])
    })
  }
}

t.test('a raw upgrade that a replaced server.close() waits for is destroyed', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 8_000 })
  let waitsFor: Duplex | undefined
  app.server.on('upgrade', (_request, socket) => {
    waitsFor = socket
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n')
  })
  const { close } = app.server
  app.server.close = function (callback) {
    waitsFor?.once('close', () => { close.call(this, callback) })
    return this
  }
  const client = new RawClient(await listen(app)).get('/', ['Connection: Upgrade', 'Upgrade: x'])
  await client.until(/101/)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  t.ok(report.phases.closing < 3_000, `closing took ${report.phases.closing} ms`)
})

t.test('new connections get 503 as long as a replaced server.close() waits for WebSockets, and those that it has accepted then, too', async t => {
  const { app, port, client } = await createProxied(t)
  const report = app.gracefulShutdown.shutdown()
  await client.until(/\x88/) // oxlint-disable-line no-control-regex
  t.equal(app.gracefulShutdown.phase, 'closing')
  const rejected = new RawClient(port).get('/')
  await rejected.closed
  const late = new RawClient(port)
  await once(late.socket, 'connect')
  client.socket.write(CLOSE_ANSWER)
  await client.closed
  await eventually(() => !app.server.listening)
  late.get('/')
  await late.closed
  for (const client503 of [rejected, late]) t.match(client503.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL/)
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

for (const phase of ['running', 'draining', 'closing'] as const) {
  for (const reusePort of [false, true]) {
    const how = `${phase}, reusePort: ${reusePort}`
    t.test(`beside such a WebSocket, the callback of an own server.close() is called after the shutdown, and 'close' is emitted once (${how})`, { skip: reusePort && NO_REUSE_PORT }, async t => {
      const { app, client, held, port, ran } = await createProxied(t, { listenOptions: { reusePort } })
      app.registerShutdownCallback(() => { ran.push('callback') })
      let closings = 0
      app.server.on('close', () => { closings++ })
      const busy = new RawClient(port).get('/held')
      await held.entered
      const report = phase === 'running' ? undefined : app.gracefulShutdown.shutdown()
      if (phase === 'closing') held.release()
      await phaseBegins(app, phase)
      const called = new Deferred()
      app.server.close(() => {
        ran.push('own')
        called.resolve()
      })
      held.release()
      await Promise.all([called.promise, client.closed, busy.until(/"held":true/)])
      t.strictSame(ran, ['onClose', 'callback', 'own'])
      t.equal(app.gracefulShutdown.phase, 'closed')
      t.equal(closings, 1)
      t.match(await (report ?? app.gracefulShutdown.wait()), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    })
  }
}

t.test('a request that offers h2c, beside such a WebSocket, is answered', { skip: NO_REUSE_PORT }, async t => {
  const { app, client, held, port } = await createProxied(t, { listenOptions: { reusePort: true } })
  const offering = new RawClient(port).get('/held', ['Connection: Upgrade', 'Upgrade: h2c'])
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await client.closed
  held.release()
  await offering.until(/"held":true/)
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

t.test('a shared listener is closed as draining starts, although a WebSocket through @fastify/http-proxy does not close', { skip: NO_REUSE_PORT }, async t => {
  // Node 20 ignores reusePort, but the plugin does not.
  const { app, port, client, held } = await createProxied(t, { listenOptions: { reusePort: true } })
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await client.closed
  await eventually(() => !app.server.listening)
  t.equal(app.gracefulShutdown.phase, 'draining')
  held.release()
  await busy.until(/"held":true/)
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

t.test('event streams and long polls see the signal at once, while the server still serves', async t => {
  const { app } = await createApp(t, { shutdownDelay: 200, drainTimeout: 2_000 })
  const { gracefulShutdown } = app
  const phases: string[] = []
  app.get('/events', { config: { gracefulShutdown: { writeTimeout: false } } }, (_request, reply) => {
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.raw.write('data: hello\n\n')
    gracefulShutdown.signal.addEventListener('abort', () => {
      phases.push(gracefulShutdown.phase)
      reply.raw.end('data: bye\n\n')
    })
  })
  app.get('/poll', async () => {
    await once(gracefulShutdown.signal, 'abort')
    phases.push(gracefulShutdown.phase)
    return { messages: [] }
  })
  const shutdown = await testShutdown(app)
  const poll = shutdown.request('/poll')
  const events = await shutdown.open('/events')
  await eventually(() => app.inFlightRequests === 2)
  shutdown.signal('SIGTERM')
  t.match(await poll, { status: 200, headers: { connection: 'close' }, body: '{"messages":[]}' })
  t.match(await events.response, { body: 'data: hello\n\ndata: bye\n\n', error: undefined })
  t.strictSame(phases, ['delaying', 'delaying'])
  t.match(await shutdown.report, { completed: 2, cut: { length: 0 }, exitCode: 0 })
})

t.test('an event stream that ignores the signal may continue until the drain timeout', async t => {
  const { app } = await createApp(t, { drainTimeout: 300 })
  app.get('/events', (_request, reply) => {
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.raw.write('data: hello\n\n')
  })
  const shutdown = await testShutdown(app)
  const events = await shutdown.open('/events')
  shutdown.signal('SIGTERM')
  const report = await shutdown.report
  t.match(await events.response, { status: 200, body: 'data: hello\n\n', error: 'ECONNRESET' })
  t.match(report, { cut: [{ method: 'GET', route: '/events' }], exitCode: 1 })
  t.ok(report.phases.draining >= 299, `drained for ${report.phases.draining}ms`)
})

t.test('HTTP/2: sessions are served while delaying, and get GOAWAY when the delay is over; their streams are served to the end', async t => {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, { shutdownDelay: 20_000, drainTimeout: 2_000, shutdownTimeout: 30_000 })
  app.get('/', async () => app.gracefulShutdown.phase)
  const held = heldRoute(app)
  const port = await listen(app)
  const connectSession = () => connectHttp2(`http://127.0.0.1:${port}`)
  const phaseOn = async (session: ClientHttp2Session) => String((await once(session.request({ ':path': '/' }), 'data') as [Buffer])[0])
  const [busy, idle] = [connectSession(), connectSession()]
  const stream = busy.request({ ':path': '/held' })
  await Promise.all([held.entered, once(idle, 'remoteSettings')])
  const report = app.gracefulShutdown.shutdown()
  const late = connectSession()
  const sessions = [busy, idle, late]
  const told = Promise.all(sessions.map(async session => [await once(session, 'goaway') as unknown, app.gracefulShutdown.phase]))
  const idleClosed = Promise.all([once(idle, 'close'), once(late, 'close')])
  for (let i = 0; i < 2; i++) t.strictSame(await Promise.all(sessions.map(phaseOn)), ['delaying', 'delaying', 'delaying'])

  app.gracefulShutdown.skipDelay()
  t.match(await told, [[[0, 5], 'draining'], [[0, 3], 'draining'], [[0, 3], 'draining']], 'no error, and the last stream that is served')
  await idleClosed
  held.release()
  stream.resume()
  await once(busy, 'close')
  t.match(await report, { completed: 7, refused: 0, cut: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2: a new stream on a session opened before the drain gets REFUSED_STREAM, which the client may retry elsewhere', async t => {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const inFlight = session.request({ ':path': '/held' })
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const late = session.request({ ':path': '/held' })
  const [error] = await once(late, 'error') as [Error]
  t.match(error.message, 'NGHTTP2_REFUSED_STREAM')
  held.release()
  const [headers] = await once(inFlight, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 200)
  inFlight.resume()
  await once(session, 'close')
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2: a stream of an opted-out route ends with its session', async t => {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  const held = heldRoute(app, '/held', { gracefulShutdown: false })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  session.on('error', () => {})
  // A session of Node closes once what it has received is read.
  session.request({ ':path': '/held' }).on('error', () => {}).resume()
  await held.entered
  const closed = once(session, 'close')
  const report = await app.gracefulShutdown.shutdown()
  await closed
  t.match(report, { completed: 0, cut: { length: 0 }, exitCode: 0 })
  t.ok(report.phases.closing < 1_900, `closing took ${report.phases.closing}ms`)
  held.release()
})

/** Requests a path over HTTP/1 or HTTP/2. Resolves to the response's text once the response has ended. */
async function read (isHttp2: boolean, port: number, path: string): Promise<string> {
  if (!isHttp2) return await (await fetch(`http://127.0.0.1:${port}${path}`, { headers: { accept: 'text/event-stream' } })).text()
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  const body = await text(session.request({ ':path': path, accept: 'text/event-stream' }))
  session.close()
  return body
}

for (const isHttp2 of [false, true]) {
  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a route may have its responses ended as draining starts`, async t => {
    const { app } = await createApp(t, { drainTimeout: 20_000 }, isHttp2 ? { http2: true } as object : {})
    expectWarnings(t, /connection header is not valid/)
    await app.register(sse as never)
    const config = { gracefulShutdown: { onShutdown: 'end' as const } }
    const begun = new Set<string>()
    const stream = new PassThrough()
    app.get('/stream', { config }, async (_request, reply) => {
      stream.write('first\n')
      begun.add('stream')
      return await reply.type('application/x-ndjson').send(stream)
    })
    app.get('/hijacked', { config }, (_request, reply) => {
      reply.hijack()
      reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('first\n')
      begun.add('hijacked')
      // It writes on until its client has disconnected.
      const timer = setInterval(() => { reply.raw.write('more\n') }, 5)
      reply.raw.on('close', () => { clearInterval(timer) })
    })
    app.get('/sse', { config, sse: true } as object, async (_request, reply) => {
      const events = (reply as unknown as { sse: { keepAlive: () => void, send: (event: object) => Promise<void> } }).sse
      events.keepAlive()
      await events.send({ data: 'first' })
      begun.add('sse')
    })
    app.get('/late', { config }, (_request, reply) => {
      reply.hijack()
      begun.add('late')
      app.gracefulShutdown.signal.addEventListener('abort', () => {
        // In a later turn than the start of the drain.
        setImmediate(() => { reply.raw.writeHead(200).write('first\n') })
      })
    })
    const port = await listen(app)
    const bodies = ['/stream', '/hijacked', '/sse', '/late'].map(async path => await read(isHttp2, port, path))
    await eventually(() => begun.size === 4)
    const { phases, cut, completed, exitCode } = await app.gracefulShutdown.shutdown()
    t.strictSame({ cut, completed, exitCode }, { cut: [], completed: 4, exitCode: 0 })
    t.ok(phases.draining < 10_000, `drained in ${phases.draining}ms`)
    for (const body of await Promise.all(bodies)) t.match(body, /first/)
    await eventually(() => stream.destroyed)
  })
}

for (const event of ['message', 'close'] as const) {
  t.test(`work that a WebSocket tracks for its last ${event} ends before onClose hooks and callbacks run`, async t => {
    const { app } = await createApp(t)
    const order: string[] = []
    await app.register(websocket)
    app.addHook('onClose', async () => { order.push('onClose') })
    app.registerShutdownCallback(() => { order.push('callback') })
    app.register(async instance => {
      instance.get('/ws', { websocket: true }, socket => {
        socket.send('hello')
        const save = async () => {
          await sleep(100)
          order.push(`${event} saved`)
        }
        socket.on(event, () => { void app.gracefulShutdown.track(save(), 'save') })
      })
    })
    const client = new RawClient(await listen(app))
    client.get('/ws', HANDSHAKE)
    await client.until(/hello/)
    const report = app.gracefulShutdown.shutdown()
    // The close frame: 1001. Before its answer, the client sends what it still has to say, over a slow network.
    await client.until(/\x88\x02\x03\xe9$/) // oxlint-disable-line no-control-regex
    await sleep(300)
    const mask = Buffer.alloc(4)
    client.socket.write(Buffer.concat([Buffer.from([0x81, 0x82]), mask, Buffer.from('hi')]))
    client.socket.write(Buffer.concat([Buffer.from([0x88, 0x82]), mask, Buffer.from([0x03, 0xe9])]))
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
    t.strictSame(order, [`${event} saved`, 'onClose', 'callback'])
  })
}

t.test('HTTP/2: a CONNECT stream that the application has taken is not waited for, and a preClose hook may end it', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  const taken = new Deferred<ServerHttp2Stream>()
  app.server.on('connect', (_request: unknown, response: { writeHead: (status: number) => void, stream: ServerHttp2Stream }) => {
    response.writeHead(200)
    taken.resolve(response.stream)
  })
  app.addHook('preClose', async () => { (await taken.promise).end('bye') })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`).on('error', () => {})
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':method': 'CONNECT', ':authority': 'example.org:80' })
  await taken.promise
  t.equal(app.inFlightRequests, 0)
  const [report, received] = await Promise.all([app.gracefulShutdown.shutdown(), text(stream)])
  t.equal(received, 'bye')
  t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})
