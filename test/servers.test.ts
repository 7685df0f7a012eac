import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Server, Socket } from 'node:net'
import type { Test } from 'tap'
import type { Program } from './helpers.ts'
import { hasSubscribers, subscribe, unsubscribe } from 'node:diagnostics_channel'
import { errorMonitor, EventEmitter, once } from 'node:events'
import { existsSync, unlinkSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { connect, createServer as createTcpServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { testShutdown } from '../lib/testing/index.ts'
import { SETTLE_TIMEOUT } from '../lib/times.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import {
  commandOf, COVERED, createApp, createAppBehind, Deferred, eventually, freePort, heldRoute, listen, listenOnLocalhost,
  NO_REUSE_PORT, phaseBegins, RawClient, runCommand, socketPath
} from './helpers.ts'
import { openListener } from './inherited.ts'

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
const REUSES_PORT = major > 22 || (major === 22 && minor >= 12)

t.test('covers the second listener of localhost, which Fastify does not expose', async t => {
  t.teardown(resolveToBothLoopbacks())
  const { app } = await createApp(t, { readTimeout: 200, writeTimeout: 10_000 })
  const held = heldRoute(app)
  await listenOnLocalhost(app)
  const addresses = app.addresses() as AddressInfo[]
  t.strictSame(addresses.map(({ address }) => address).sort(), ['127.0.0.1', '::1'])
  const slow = addresses.map(({ address, port }) => new RawClient(connect(port, address)).send('POST / HTTP/1.1\r\nContent-Le'))
  await eventually(() => slow.every(({ text }) => text.startsWith('HTTP/1.1 408')))
  const clients = addresses.map(({ address, port }) => new RawClient(connect(port, address)).get('/held'))
  await held.entered
  const silent = addresses.map(({ address, port }) => new RawClient(connect(port, address)))
  await Promise.all(silent.map(async ({ socket }) => { await once(socket, 'connect') }))
  await eventually(() => app.inFlightRequests === 2)
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await Promise.all([...clients, ...silent].map(async client => { await client.closed }))
  for (const client of clients) t.match(client.text, /200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
  const { phases, completed, exitCode } = await report
  t.match({ completed, exitCode }, { completed: 2, exitCode: 0 })
  t.ok(phases.closing < 500, `closing took ${phases.closing}ms`)
})

/** Node's channels with a subscriber. Node holds one, and so would hold all that a test file of Jest has loaded. */
function subscribed (): string[] {
  return ['http.server.request.start', 'tracing:net.server.listen:asyncStart'].filter(name => hasSubscribers(name))
}

async function visitServer (t: Test, app: FastifyInstance): Promise<void> {
  const { port } = app.server.address() as AddressInfo
  const client = new RawClient(port).get('/')
  await client.until(/served$/)
  t.strictSame(subscribed(), ['http.server.request.start'])
}

for (const [what, use] of Object.entries<(app: FastifyInstance, t: Test) => Promise<unknown>>({
  'that has served a request and is closed': async (app, t) => {
    await listen(app)
    await visitServer(t, app)
    await app.close()
  },
  'that has listened on localhost and is closed': async app => {
    await app.listen({ port: 0 })
    await app.close()
  },
  'whose listen() is called when it is closed': async app => {
    await app.close()
    app.listen({ port: 0 }, () => {})
  },
  'that is not ready and is never closed': async () => {},
  'that has only got injected requests and is never closed': async app => { await app.inject('/') },
  'that fails to listen on localhost and is never closed': async (app, t) => {
    const other = createServer().listen(0, 'localhost')
    await once(other, 'listening')
    await t.rejects(app.listen({ port: (other.address() as AddressInfo).port }), { code: 'EADDRINUSE' })
    other.close()
  },
  'whose server is opened and closed by the application, as by supertest': async (app, t) => {
    await app.ready()
    await once(app.server.listen(0, '127.0.0.1'), 'listening')
    await visitServer(t, app)
    await new Promise(resolve => { app.server.close(resolve) })
  },
  'whose server gets a connection, twice, without listening': async (app, t) => {
    await app.ready()
    const tcp = createTcpServer(socket => {
      for (let times = 0; times < 2; times++) app.server.emit('connection', socket)
      t.strictSame(subscribed(), ['http.server.request.start'])
    }).listen(0, '127.0.0.1')
    await once(tcp, 'listening')
    const client = new RawClient((tcp.address() as AddressInfo).port)
    await once(client.socket, 'connect')
    await eventually(() => subscribed().length > 0)
    client.socket.destroy()
    await new Promise(resolve => { tcp.close(resolve) })
  }
})) {
  t.test(`an instance ${what} leaves no subscriber on Node's channels`, async t => {
    const { app } = await createApp(t)
    app.get('/', async () => 'served')
    await use(app, t)
    await eventually(() => subscribed().length === 0)
    t.strictSame(subscribed(), [])
  })
}

t.test('does not affect other servers of the process', async t => {
  await createApp(t)
  const other = createServer()
  const { requestTimeout } = other
  other.listen(0, '127.0.0.1')
  await once(other, 'listening')
  t.equal(other.requestTimeout, requestTimeout)
  other.close()
})

t.test('works with a server factory and on a Unix socket', async t => {
  const path = socketPath(t)
  const app = Fastify({ serverFactory: handler => createServer((request, response) => { handler(request, response) }) })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  await app.listen({ path })
  const client = new RawClient(path).get('/held')
  const idle = new RawClient(path)
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await Promise.all([client.closed, idle.closed])
  t.match(client.text, '{"held":true}')
  t.match(await report, { completed: 1, exitCode: 0 })
})

t.test('a request that is an EventEmitter with a socket, as other servers than that of Node pass it on, counts until it is answered', async t => {
  const { app } = await createApp(t)
  const { promise: released, resolve: release } = new Deferred()
  app.get('/hijacked', async (_request, reply) => {
    reply.hijack()
    await released
    reply.raw.end('late')
  })
  await app.ready()
  const server = createServer((request, response) => {
    const { method, url, headers, socket, httpVersion, httpVersionMajor } = request
    const passed = Object.assign(new EventEmitter(), { method, url, headers, socket, httpVersion, httpVersionMajor })
    app.routing(passed as unknown as IncomingMessage, response)
  })
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = new RawClient((server.address() as AddressInfo).port).get('/hijacked', ['Connection: close'])
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.inFlightRequests, 1)
  release()
  await client.closed
  t.match(client.text, 'late')
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

/** As code that observes servers may pass it to Fastify: methods of the object itself, and its properties. */
function proxyOf<T extends object> (object: T): T {
  return new Proxy(object, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value
    },
    set: (target, name, value) => Reflect.set(target, name, value, target)
  })
}

for (const [what, pass] of Object.entries<<T extends object>(object: T, of: 'request' | 'response') => T>({
  response: (object, of) => of === 'response' ? proxyOf(object) : object,
  'request and the response': proxyOf
})) {
  t.test(`a request counts once if a server factory passes a proxy of the ${what} to Fastify`, async t => {
    const { app } = await createApp(t, {}, {
      serverFactory: (handler: (request: never, response: never) => void) => createServer((request, response) => {
        handler(pass(request, 'request') as never, pass(response, 'response') as never)
      })
    })
    const released = new Deferred()
    app.get('/', async () => {
      await released.promise
      return 'answered'
    })
    const port = await listen(app)
    const clients = [new RawClient(port).get('/').get('/'), new RawClient(port).get('/')]
    await eventually(() => app.inFlightRequests >= 3)
    t.equal(app.inFlightRequests, 3)
    const report = app.gracefulShutdown.shutdown()
    released.resolve()
    t.match(await report, { completed: 3, cut: { length: 0 }, exitCode: 0 })
    for (const client of clients) {
      await client.closed
      t.match(client.text, /answered/)
    }
  })
}

t.test('fastify-graceful/testing works with a server factory, and rejects an instance on a Unix socket', async t => {
  const serverFactory = (handler: RequestListener) => createServer((...exchange) => { handler(...exchange) })
  const { app } = await createApp(t, {}, { serverFactory })
  app.get('/', async () => 'served')
  const shutdown = await testShutdown(app)
  const held = await shutdown.hold('/')
  shutdown.signal('SIGTERM')
  t.match(await held.release(), { status: 200, body: 'served' })
  t.match(await shutdown.report, { completed: 1, exitCode: 0 })

  const onSocket = (await createApp(t)).app
  await onSocket.listen({ path: socketPath(t) })
  await t.rejects(testShutdown(onSocket), { code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: /HTTP\/1\.1 over TCP$/ })
})

for (const when of ['while running', 'while delaying']) {
  t.test(`closing the listener ${when} starts the shutdown and cuts no request`, async t => {
    const { app } = await createApp(t, { shutdownDelay: 4_000 })
    const held = heldRoute(app)
    app.get('/', async () => 'served')
    let ran = 0
    app.registerShutdownCallback(() => { ran++ })
    const port = await listen(app)
    const idle = new RawClient(port).get('/')
    await idle.until(/served/)
    const busy = new RawClient(port).get('/held')
    await held.entered
    if (when === 'while delaying') void app.gracefulShutdown.shutdown('close')
    const closed = new Promise<void>(resolve => { app.server.close(() => { resolve() }) })
    await phaseBegins(app, 'draining')
    await idle.get('/').closed
    t.match(idle.text, /served[^]*503 Service Unavailable/, 'an idle connection is still answered')
    held.release()
    await Promise.all([busy.closed, closed])
    t.match(busy.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
    const report = await app.gracefulShutdown.wait()
    t.match(report, { reason: 'close', completed: 1, refused: 1, exitCode: 0 })
    t.ok(report.phases.delaying < 2_000, `the delay ends: ${report.phases.delaying}ms`)
    t.equal(ran, 1)
  })
}

t.test('a server that failed to listen at first is covered once', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  await app.ready()
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  await t.rejects(app.listen({ port: (taken.address() as AddressInfo).port, host: '127.0.0.1' }), { code: 'EADDRINUSE' })
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/served/)
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  await client.closed
})

t.test('a server of the application that shares the routing is drained and stays open, as with Fastify alone', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  await app.ready()
  const server = createServer(app.routing)
  t.teardown(() => server.close())
  await once(server.listen(0, '127.0.0.1'), 'listening')
  await listen(app)
  const { port } = server.address() as AddressInfo
  const client = new RawClient(port).get('/held')
  await held.entered
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  held.release()
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  await client.until(/200 OK[^]*\{"held":true\}$/)
  t.ok(server.listening)
  t.notOk(app.server.listening)
  const late = new RawClient(port).get('/')
  await late.until(/503 Service Unavailable/)
})

t.test('a pipeline in flight on such a server is answered', async t => {
  const { app } = await createApp(t)
  const gate = new Deferred()
  const entered: string[] = []
  app.get('/:name', async ({ url }) => {
    entered.push(url)
    await gate.promise
    return url
  })
  await app.ready()
  const server = createServer(app.routing).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const client = new RawClient((server.address() as AddressInfo).port).get('/first').get('/second')
  await eventually(() => entered.length === 2)
  const report = app.gracefulShutdown.shutdown()
  gate.resolve()
  await client.until(/200 OK[^]*\/first[^]*200 OK[^]*\/second$/)
  t.match(await report, { completed: 2, cut: { length: 0 }, exitCode: 0 })
})

t.test('Node answers a malformed request if the application has removed the listener for clientError', async t => {
  const app = await createAppBehind(t, fastify => { fastify.server.removeAllListeners('clientError') })
  const client = new RawClient(await listen(app)).send('malformed\r\n\r\n')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 400 Bad Request/)
})

t.test('a server of the application on the port of the instance, at another loopback address, stays open, as with Fastify alone', async t => {
  const { app } = await createApp(t)
  const port = await freePort(['127.0.0.1', '::1'])
  await app.listen({ port, host: '127.0.0.1' })
  const server = createServer(app.routing)
  t.teardown(() => server.close())
  await once(server.listen(port, '::1'), 'listening')
  await app.close()
  t.ok(server.listening)
})

t.test('a server from serverFactory on which the application listens stays open, as with Fastify alone', async t => {
  const server = createServer()
  const app = Fastify({ serverFactory: handler => server.on('request', handler) })
  await app.register(gracefulPlugin, { shutdownTimeout: 1_000, drainTimeout: 500 })
  // Longer than upgraded sockets have to close.
  app.addHook('onClose', async () => { await sleep(400) })
  const held = heldRoute(app)
  await app.ready()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const client = new RawClient((server.address() as AddressInfo).port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  await client.until(/\{"held":true\}$/)
  t.ok(server.listening)
  await new Promise(resolve => { server.close(resolve) })
})

t.test('a server of Fastify on which the application listens is closed by Fastify, in time', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  const held = heldRoute(app)
  await app.ready()
  await once(app.server.listen(0, '127.0.0.1'), 'listening')
  const { port } = app.server.address() as AddressInfo
  const [idle, busy, silent] = [new RawClient(port).get('/'), new RawClient(port).get('/held'), new RawClient(port)]
  await Promise.all([idle.until(/served/), held.entered, once(silent.socket, 'connect')])
  const report = app.gracefulShutdown.shutdown()
  held.release()
  t.match(await report, { completed: 1, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  await Promise.all([idle, busy, silent].map(async ({ closed }) => { await closed }))
  t.match(busy.text, /200 OK[^]*\{"held":true\}$/)
  t.notOk(app.server.listening)
})

for (const whose of ['the application', 'an instance']) {
  t.test(`two instances that share a connection of a server of ${whose} each count their own requests, and the owner of the server all of them`, async t => {
    const { app: first } = await createApp(t)
    const { app: second } = await createApp(t)
    first.get('/first', async () => 'first')
    const held = heldRoute(second)
    await Promise.all([first.ready(), second.ready()])
    const dispatch = (request: IncomingMessage, response: ServerResponse): void => {
      const { routing } = request.url === '/first' ? first : second
      routing(request, response)
    }
    const server = whose === 'the application' ? createServer() : first.server
    server.removeAllListeners('request').on('request', dispatch)
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(() => server.close())
    const connected = once(server, 'connection') as Promise<[Socket]>
    const client = new RawClient((server.address() as AddressInfo).port).get('/first')
    await client.until(/first$/)
    client.get('/held')
    await held.entered
    // The instance that owns the connection would close it if it did not also wait for the request.
    const inFlight = whose === 'the application' ? [0, 1] : [1, 1]
    t.strictSame([first.inFlightRequests, second.inFlightRequests], inFlight)
    t.match(second.gracefulShutdown.inFlight(), [{ url: '/held' }])
    const [socket] = await connected
    const gone = new Promise(resolve => { socket.on('close', resolve) })
    client.socket.destroy()
    await gone
    t.equal(second.inFlightRequests, 1, 'its handler still runs')
    held.release()
    await eventually(() => first.inFlightRequests + second.inFlightRequests === 0)
  })
}

interface Closings {
  /** How often the server has emitted 'close'. */
  closings: number
  /** For each call of the wrapped server.close(): whether the server listened. */
  calls: boolean[]
}

async function serverClosings (t: Test, app: FastifyInstance, start: () => Promise<unknown>): Promise<Closings> {
  let closings = 0
  app.server.on('close', () => { closings++ })
  const calls: boolean[] = []
  const { close } = app.server
  app.server.close = function (callback) {
    calls.push(this.listening)
    return close.call(this, callback)
  }
  await start()
  await app.close()
  await new Promise(resolve => { setImmediate(resolve) })
  t.equal(app.server.listening, false)
  return { closings, calls }
}

for (const how of ['before', 'after'] as const) {
  t.test(`server.close, wrapped ${how} the plugin is registered, is called once, while it listens; 'close' is emitted once, after the drain`, async t => {
    const app = Fastify() as FastifyInstance
    const held = heldRoute(app)
    let ended = false
    const start = async () => {
      const client = new RawClient(await listen(app)).get('/held')
      const accepted = once(app.server, 'request') as Promise<[unknown, ServerResponse]>
      const [, response] = await accepted
      response.on('finish', () => { ended = true })
      app.server.on('close', () => { t.ok(ended, 'after the drain') })
      await held.entered
      const closed = app.close()
      held.release()
      await Promise.all([closed, client.closed])
    }
    if (how === 'after') await app.register(gracefulPlugin)
    const result = await serverClosings(t, app, async () => {
      if (how === 'before') await app.register(gracefulPlugin)
      await start()
    })
    t.strictSame(result, { closings: 1, calls: [true] })
  })
}

t.test('an idle connection is closed at once if a wrapped server.close() closes the listener later', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  const { close } = app.server
  // As in @fastify/http-proxy, which first closes its WebSockets.
  app.server.close = function (callback) {
    this.close = later => this.once('close', () => { later?.() })
    setImmediate(() => { close.call(this, callback) })
    return this
  }
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/served/)
  const start = performance.now()
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(report, { exitCode: 0 })
  t.ok(performance.now() - start < SETTLE_TIMEOUT.most / 2)
})

t.test('a wrapped server.close() that takes long is called once, and until then new requests get the 503 of the plugin, and probes answer', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 8_000, health: { duringShutdown: 200 } })
  app.get('/', async () => 'served')
  const closing = new Deferred()
  const released = new Deferred()
  let calls = 0
  const { close } = app.server
  app.server.close = function (callback) {
    calls++
    closing.resolve()
    void released.promise.then(() => { close.call(this, callback) })
    return this
  }
  let closings = 0
  app.server.on('close', () => { closings++ })
  const port = await listen(app)
  const report = app.gracefulShutdown.shutdown()
  await closing.promise
  // Longer than closing waits for anything else.
  await sleep(2 * SETTLE_TIMEOUT.most)
  const [rejected, probe] = [new RawClient(port).get('/'), new RawClient(port).get('/health')]
  await Promise.all([rejected.closed, probe.closed])
  t.match(rejected.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL/)
  t.match(probe.text, /^HTTP\/1\.1 200 /)
  released.resolve()
  t.match(await report, { errors: { length: 0 }, refused: 1, exitCode: 0 })
  t.strictSame({ calls, closings }, { calls: 1, closings: 1 })
})

t.test("a wrapped server.close() that calls the plugin's twice emits 'close' once", async t => {
  const { app } = await createApp(t)
  const { close } = app.server
  app.server.close = function (callback) {
    close.call(this, callback)
    return close.call(this)
  }
  let closings = 0
  app.server.on('close', () => { closings++ })
  await listen(app)
  t.match(await app.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
  t.equal(closings, 1)
})

t.test('a wrapped server.close() of a server that the application itself listens with closes it as without the plugin', async t => {
  const { app } = await createApp(t)
  let calls = 0
  const { close } = app.server
  app.server.close = function (callback) {
    calls++
    return close.call(this, callback)
  }
  await app.ready()
  app.server.listen(0, '127.0.0.1')
  await once(app.server, 'listening')
  await new Promise(resolve => { app.server.close(resolve) })
  t.equal(calls, 1)
  t.equal(app.gracefulShutdown.phase, 'running')
})

t.test('clients that have connected when a wrapped server.close() closes the listener, and are not accepted yet, get 503', async t => {
  const { app } = await createApp(t)
  const late: RawClient[] = []
  const { close } = app.server
  app.server.close = function (callback) {
    const { port } = this.address() as AddressInfo
    setTimeout(() => {
      for (let i = 0; i < 5; i++) late.push(new RawClient(port).get('/'))
      // They connect meanwhile, but the event loop does not run.
      setImmediate(() => {
        const end = performance.now() + 20
        while (performance.now() < end);
        close.call(this, callback)
      })
    }, 200)
    return this
  }
  await listen(app)
  t.match(await app.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
  t.equal(late.length, 5)
  for (const client of late) {
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 503 /)
  }
})

t.test('an error of a server.close() that was replaced before the plugin goes to the one that was replaced later, and calls it from an event', async t => {
  const app = Fastify() as FastifyInstance
  const { close } = app.server
  t.teardown(() => { close.call(app.server) })
  app.server.close = () => { throw new Error('broken') }
  await app.register(gracefulPlugin, { signals: false })
  const { close: next } = app.server
  const errors: unknown[] = []
  app.server.close = function (callback) {
    setTimeout(() => {
      next.call(this, error => {
        errors.push(error?.message)
        callback?.(error)
      })
    }, 100)
    return this
  }
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  await listen(app)
  await app.gracefulShutdown.shutdown()
  t.strictSame(errors, ['broken'])
  t.strictSame(ran, ['onClose'])
})

/** What other plugins do to the server. */
const replacements: Record<string, (app: FastifyInstance) => void> = {
  // As @fastify/restartable does.
  'close() relies on its callback': ({ server }) => {
    const { close } = server
    server.close = callback => {
      setImmediate(() => { (callback as () => void)() })
      return close.call(server)
    }
  },
  'close() throws once': ({ server }) => {
    const { close } = server
    server.close = () => {
      server.close = close
      throw new Error('not yet')
    }
  }
}

for (const [what, replace] of Object.entries(replacements)) {
  // Node 20 ignores it, but the plugin does not.
  for (const reusePort of [false, true]) {
    t.test(`cleanup runs and the listener is closed if a plugin has replaced server.close(): ${what}, reusePort: ${reusePort}`, { skip: reusePort && NO_REUSE_PORT }, async t => {
      const app = Fastify() as FastifyInstance
      await app.register(gracefulPlugin)
      const ran: string[] = []
      app.addHook('onClose', async () => { ran.push('onClose') })
      app.registerShutdownCallback(() => { ran.push('callback') })
      replace(app)
      await app.listen({ port: 0, host: '127.0.0.1', reusePort } as object)
      const { phases } = await app.gracefulShutdown.shutdown()
      t.strictSame(ran, ['onClose', 'callback'])
      t.equal(app.server.listening, false)
      t.ok(phases.draining < 2_000)
    })
  }
}

/** Listens with reusePort, and shuts down with a request in flight: the listener is closed as draining starts. */
async function closesWhileDraining (t: Test, app: FastifyInstance, whileDraining = () => {}): Promise<void> {
  const held = heldRoute(app)
  await app.listen({ port: 0, host: '127.0.0.1', reusePort: true } as object)
  const client = new RawClient((app.server.address() as AddressInfo).port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await eventually(() => !app.server.listening)
  t.equal(app.gracefulShutdown.phase, 'draining')
  whileDraining()
  held.release()
  await client.until(/"held":true/)
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
}

t.test('with reusePort, the listener is closed as draining starts, also while an onListen hook ahead of the plugin runs', { skip: NO_REUSE_PORT }, async t => {
  const ended = new Deferred()
  const app = await createAppBehind(t, instance => { instance.addHook('onListen', async () => { await ended.promise }) })
  await closesWhileDraining(t, app, () => { ended.resolve() })
})

t.test('when the drain ends, Node removes the path of a Unix socket, also if it is the socket of another server by then',
  { skip: process.platform === 'win32' }, async t => {
    const path = socketPath(t)
    const { app } = await createApp(t)
    const held = heldRoute(app)
    await app.listen({ path })
    const client = new RawClient(path).get('/held')
    await held.entered
    const report = app.gracefulShutdown.shutdown()
    unlinkSync(path)
    const next = createTcpServer().listen(path)
    await once(next, 'listening')
    t.teardown(() => { next.close() })
    t.ok(existsSync(path))
    held.release()
    await client.closed
    t.match(await report, { completed: 1, exitCode: 0 })
    t.notOk(existsSync(path))
  })

t.test('a closeIdleConnections() of other code is kept, and a server without one gets none', async t => {
  const own = () => {}
  const { app } = await createApp(t)
  app.server.closeIdleConnections = own
  await listen(app)
  await app.gracefulShutdown.shutdown()
  t.equal(app.server.closeIdleConnections, own)
  const { app: other } = await createApp(t, {}, { http2: true } as object)
  await listen(other)
  await other.gracefulShutdown.shutdown()
  t.notOk('closeIdleConnections' in other.server)
})

t.test("'close' of the server is emitted once if the instance never listened", async t => {
  const { app } = await createApp(t)
  let closings = 0
  app.server.on('close', () => { closings++ })
  await app.ready()
  await app.close()
  await new Promise(resolve => { setImmediate(resolve) })
  t.equal(closings, 1)
})

t.test('closing a server that does not listen yet does not start a shutdown', async t => {
  const { app } = await createApp(t)
  await new Promise(resolve => { app.server.close(resolve) })
  t.equal(app.gracefulShutdown.phase, 'running')
  app.get('/', async () => 'served')
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/served/)
  t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 })
})

t.test('with reusePort, new connections go to the other process while draining', { skip: REUSES_PORT ? NO_REUSE_PORT : 'not in this Node.js' }, async t => {
  const [old, next] = [await createApp(t, { shutdownDelay: 50 }), await createApp(t)]
  for (const { app } of [old, next]) app.get('/', async () => (app === old.app ? 'old' : 'next'))
  const held = heldRoute(old.app)
  await old.app.listen({ port: 0, host: '127.0.0.1', reusePort: true } as object)
  const { port } = old.app.server.address() as AddressInfo
  const client = new RawClient(port).get('/held')
  await held.entered
  await next.app.listen({ port, host: '127.0.0.1', reusePort: true } as object)
  const report = old.app.gracefulShutdown.shutdown()
  await phaseBegins(old.app, 'draining')
  for (let round = 0; round < 40; round++) {
    const other = new RawClient(port).get('/', ['Connection: close'])
    await other.closed
    t.match(other.text, /^HTTP\/1\.1 200 [^]*next$/)
  }
  held.release()
  await client.until(/"held":true/)
  t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
})

for (const form of ['a promise', 'a callback']) {
  for (const when of ['in the same turn', 'a moment later', 'by other code, with the original close(), a moment later']) {
    t.test(`close() while listen() on localhost, with ${form}, is in progress closes the instance, if called ${when}`, async t => {
      t.teardown(resolveToBothLoopbacks())
      for (let round = 0; round < 10; round++) {
        const app = Fastify()
        const close = app.close.bind(app)
        await app.register(gracefulPlugin)
        await app.ready()
        const listening = form === 'a promise'
          ? app.listen(...round === 0 ? [] : [{ port: 0 }])
          : new Promise((resolve, reject) => {
            app.listen({ port: 0 }, error => {
              if (error === null) resolve(undefined)
              else reject(error)
            })
          })
        if (when !== 'in the same turn') await sleep(round / 2)
        await (when.startsWith('by other code') ? close() : app.close())
        await listening
        t.notOk(app.server.listening)
        t.strictSame(app.addresses(), [])
      }
    })
  }
}

t.test('a listen() that fails is not waited for, and its rejection is not handled by the plugin', async t => {
  const { app } = await createApp(t)
  const other = Fastify()
  t.teardown(async () => { await other.close() })
  const port = Number(new URL(await other.listen({ port: 0, host: '127.0.0.1' })).port)
  const rejections: unknown[] = []
  const note = (error: unknown) => { rejections.push(error) }
  process.on('unhandledRejection', note)
  t.teardown(() => { process.off('unhandledRejection', note) })
  void app.listen({ port, host: '127.0.0.1' })
  await eventually(() => rejections.length === 1)
  t.match(rejections, [{ code: 'EADDRINUSE' }])
  t.throws(() => app.listen({ port: 0, signal: {} as AbortSignal }), { code: 'FST_ERR_LISTEN_OPTIONS_INVALID' })
  const start = performance.now()
  await app.close()
  t.ok(performance.now() - start < 500)
})

/** A service that listens on a socket of this process. */
async function startInherited (t: Test, env: Record<string, string>): Promise<{ parent: Server, port: number, service: Program }> {
  const { server: parent, fd } = await openListener()
  const service = runCommand(t, commandOf('socket-activated', COVERED), { ...COVERED, ...env }, [fd])
  return { parent, port: (parent.address() as AddressInfo).port, service }
}

t.test('with an inherited listener, a request that arrives just after the last one in flight has ended is served', async t => {
  const { parent, port, service } = await startInherited(t, { LATE: '1' })
  await service.log.line(/listening at/)
  parent.close()
  const client = new RawClient(port).get('/slow')
  await service.log.line(/slow request is in/)
  service.kill('SIGTERM')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK/)
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.match(await service.log.line(/^late response$/), { text: /^HTTP\/1\.1 200 OK[^]*HTTP\/1\.1 200 OK/ })
  t.equal(service.log.messages(/^All requests drained/).length, 2)
})

t.test('a service that fails as it starts to listen on an inherited listener rejects no request', async t => {
  const { parent, port, service } = await startInherited(t, { FAILS: '1' })
  await service.log.line(/received|Shutting down/)
  parent.close()
  const client = new RawClient(port).get('/')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK/)
  t.strictSame(await service.exit, { code: 1, signal: null })
})

t.test('the process listeners are removed when the application closes a server that it has opened itself, and come back with it', async t => {
  const before = process.listenerCount('SIGTERM')
  const { app } = await createApp(t)
  await app.ready()
  for (let round = 0; round < 2; round++) {
    app.server.listen(0, '127.0.0.1')
    await once(app.server, 'listening')
    t.equal(process.listenerCount('SIGTERM'), before + 1)
    app.server.close()
    await once(app.server, 'close')
    t.equal(process.listenerCount('SIGTERM'), before)
    t.equal(app.gracefulShutdown.phase, 'running')
  }
})

t.test('a silent connection to a server that the application itself has opened does not delay the close', async t => {
  const { app } = await createApp(t)
  await app.ready()
  app.server.listen(0, '127.0.0.1')
  await once(app.server, 'listening')
  const silent = new RawClient((app.server.address() as AddressInfo).port)
  await once(app.server, 'connection')
  const { phases, exitCode } = await app.gracefulShutdown.shutdown()
  await silent.closed
  t.equal(exitCode, 0)
  t.ok(phases.closing < 500, `closing took ${phases.closing}ms`)
})

for (const way of ['promise', 'callback']) {
  t.test(`a listen() that is aborted while the plugins load does not delay the close: ${way}`, async t => {
    const { app } = await createApp(t)
    void app.register(async () => { await sleep(20) })
    const abort = new AbortController()
    const options = { port: 0, host: '127.0.0.1', signal: abort.signal }
    if (way === 'promise') app.listen(options).catch(() => {})
    else app.listen(options, () => {})
    abort.abort()
    const { time, exitCode } = await app.gracefulShutdown.wait()
    t.equal(exitCode, 0)
    t.ok(time < 500, `took ${time}ms`)
  })
}

t.test('the phases of the report begin and end with the phase', async t => {
  const { app } = await createApp(t)
  void app.register(async () => { await sleep(300) })
  const listening = app.listen({ port: 0, host: '127.0.0.1' }).catch(() => {})
  const draining: string[] = []
  app.addHook('onClose', async () => { draining.push(app.gracefulShutdown.phase) })
  const { phases } = await app.gracefulShutdown.shutdown()
  await listening
  t.ok(phases.draining >= 200, `a listen() in progress is waited for in draining: ${phases.draining}ms`)
  t.strictSame(draining, ['closing'])
})

/** When an application closes itself as it starts. It does not wait for that. */
const closesAtStart: Record<string, (app: FastifyInstance, close: () => void) => void> = {
  'in an onReady hook': (app, close) => { app.addHook('onReady', async () => { close() }) },
  'in an onReady hook that takes longer than the drain': (app, close) => {
    app.addHook('onReady', async () => {
      close()
      await phaseBegins(app, 'closing')
    })
  },
  'likewise, and server.close() is replaced': (app, close) => {
    app.addHook('onReady', async () => {
      const { server } = app
      const original = server.close
      server.close = callback => { setImmediate(() => original.call(server, callback)); return server }
      close()
      await phaseBegins(app, 'closing')
    })
  },
  'in a plugin': (app, close) => { void app.register(async () => { close() }) },
  'in the same turn': (_app, close) => { process.nextTick(close) },
  'at once': (_app, close) => { queueMicrotask(close) }
}

for (const host of ['localhost', '127.0.0.1']) {
  for (const [when, add] of Object.entries(closesAtStart)) {
    for (const form of ['promise', 'callback'] as const) {
      t.test(`listen() on ${host} (${form}) before the plugin is loaded, and close() ${when}: listen() ends, and then nothing listens`, async t => {
        const app = Fastify() as FastifyInstance
        void app.register(gracefulPlugin)
        const closed = new Deferred()
        add(app, () => { void app.close().then(() => { closed.resolve() }) })
        if (form === 'promise') await app.listen({ port: 0, host })
        else await new Promise(resolve => { app.listen({ port: 0, host }, resolve) })
        await closed.promise
        t.notOk(app.server.listening)
        t.match(await app.gracefulShutdown.wait(), { errors: { length: 0 }, exitCode: 0 })
      })
    }
  }

  t.test(`shutdown() while a listen() on ${host} that was called before the plugin was loaded is in progress: nothing fails`, async t => {
    const app = Fastify() as FastifyInstance
    void app.register(gracefulPlugin)
    const opened = once(app.server, 'listening')
    const listened = app.listen({ port: 0, host })
    await opened
    t.match(await app.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
    await listened
    t.notOk(app.server.listening)
  })
}

t.test('a listen() before the plugin is loaded that is aborted before it takes effect closes at once', async t => {
  for (const host of ['localhost', '127.0.0.1']) {
    const app = Fastify() as FastifyInstance
    void app.register(gracefulPlugin)
    const controller = new AbortController()
    app.listen({ port: 0, host, signal: controller.signal }, () => {})
    controller.abort()
    await app.ready()
    const { errors, time } = await app.gracefulShutdown.wait()
    t.strictSame(errors, [])
    t.ok(time < 500, `${host}: took ${time}ms`)
  }
})

t.test('a listen() before the plugin is loaded whose callback throws does not delay a later close', async t => {
  const app = Fastify() as FastifyInstance
  await t.rejects(async () => {
    void app.register(gracefulPlugin)
    await new Promise<void>((_resolve, reject) => {
      const { emit } = app.server
      app.server.emit = function (this: Server, name: string, ...args: unknown[]) {
        try {
          return Reflect.apply(emit, this, [name, ...args]) as boolean
        } catch (error) {
          reject(error)
          return true
        }
      }
      app.listen({ port: 0, host: '127.0.0.1' }, () => { throw new Error('in the callback') })
    })
  }, { message: 'in the callback' })
  const { time } = await app.gracefulShutdown.shutdown()
  t.ok(time < 500, `took ${time}ms`)
})

t.test('a listen() before the plugin is loaded is noticed although a serverFactory wraps the request listener', async t => {
  const serverFactory = (handler: RequestListener) => createServer((request, response) => { handler(request, response) })
  const app = Fastify({ serverFactory }) as unknown as FastifyInstance
  void app.register(gracefulPlugin)
  const opened = once(app.server, 'listening')
  const listened = app.listen({ port: 0, host: '127.0.0.1' })
  void app.close()
  await Promise.all([opened, listened])
  t.match(await app.gracefulShutdown.wait(), { errors: { length: 0 }, exitCode: 0 })
  t.notOk(app.server.listening)
})

t.test('a listen() that was called before the plugin was loaded, and fails, does not delay the close', async t => {
  const { app: other } = await createApp(t)
  const port = await listen(other)
  const app = Fastify() as FastifyInstance
  void app.register(gracefulPlugin)
  await t.rejects(app.listen({ port, host: '127.0.0.1' }), { code: 'EADDRINUSE' })
  const { time } = await app.gracefulShutdown.shutdown()
  t.ok(time < 500, `took ${time}ms`)
  t.equal((app.server as EventEmitter).listenerCount(errorMonitor), 0)
})

t.test('with reusePort in a listen() before the plugin was loaded, the listener is closed as draining starts, as after any other', { skip: NO_REUSE_PORT }, async t => {
  const app = Fastify() as FastifyInstance
  void app.register(gracefulPlugin)
  await closesWhileDraining(t, app)
})

t.test('after a listen() before the plugin was loaded, a server.close() by other code starts a shutdown, as after any other', async t => {
  const app = Fastify() as FastifyInstance
  void app.register(gracefulPlugin)
  const held = heldRoute(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const client = new RawClient(port).get('/held')
  await held.entered
  app.server.close()
  await phaseBegins(app, 'draining')
  held.release()
  await client.until(/held/)
  t.match(await app.gracefulShutdown.wait(), { completed: 1, exitCode: 0 })
})

for (const host of ['localhost', '127.0.0.1']) {
  t.test(`a listen() that other code has kept from before the plugin, called when the instance is ready, is noticed: ${host}`, async t => {
    const app = Fastify() as FastifyInstance
    const kept = app.listen.bind(app)
    await app.register(gracefulPlugin)
    await app.ready()
    await kept({ port: 0, host })
    app.server.close()
    t.match(await app.gracefulShutdown.wait(), { reason: 'close', errors: { length: 0 }, exitCode: 0 })
    await app.close()
  })
}

t.test('on localhost, with two listeners, server.close() does not wait for an idle connection of the first one', async t => {
  t.teardown(resolveToBothLoopbacks())
  const app = Fastify() as FastifyInstance
  void app.register(gracefulPlugin)
  app.get('/', async () => 'fine')
  await listenOnLocalhost(app)
  const client = new RawClient((app.server.address() as AddressInfo).port).get('/')
  await client.until(/fine/)
  await new Promise(resolve => { app.server.close(resolve) })
  t.equal(app.gracefulShutdown.phase, 'closed')
  await client.closed
})

for (const http2 of [false, true]) {
  t.test(`${http2 ? 'HTTP/2' : 'HTTP/1'}: to dispose of the server runs the whole shutdown`, async t => {
    const app = Fastify({ http2 } as object) as FastifyInstance
    void app.register(gracefulPlugin)
    await listen(app)
    await app.server[Symbol.asyncDispose]()
    t.equal(app.gracefulShutdown.phase, 'closed')
  })
}

t.test('the second listener of localhost has the timeouts that are set on the first one', async t => {
  t.teardown(resolveToBothLoopbacks())
  const { app } = await createApp(t)
  app.server.timeout = 50_000
  app.server.requestTimeout = 60_000
  const servers: Server[] = []
  const opened = (message: unknown) => {
    const { server } = message as { server: Server }
    // Not those of the test itself.
    if ('requestTimeout' in server) servers.push(server)
  }
  subscribe('tracing:net.server.listen:asyncEnd', opened)
  t.teardown(() => unsubscribe('tracing:net.server.listen:asyncEnd', opened))
  app.get('/', async () => 'served')
  await listenOnLocalhost(app)
  t.equal(servers.length, 2)
  for (const server of servers) t.match(server, { timeout: 50_000, requestTimeout: 60_000, keepAliveTimeout: 120_000 })
})

/** Requests after which a connection is idle, in the parts in which a client sends them. */
const lastRequests: Record<string, { parts: string[], status: number, prepare?: (app: FastifyInstance) => void }> = {
  'a response': { parts: ['GET / HTTP/1.1\r\nHost: x\r\n\r\n'], status: 200 },
  'a response whose onResponse hook ahead of the plugin fails': {
    parts: ['GET / HTTP/1.1\r\nHost: x\r\n\r\n'],
    status: 200,
    prepare: app => { app.addHook('onResponse', async () => { throw new Error('no metrics') }) }
  },
  'a response that was sent before the body had arrived': {
    parts: ['POST / HTTP/1.1\r\nHost: x\r\nContent-Type: no/type\r\nContent-Length: 2\r\n\r\n', 'ok'], status: 415
  },
  'a malformed URL': { parts: ['GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n'], status: 400 },
  'a parameter that is too long': { parts: [`GET /by/${'x'.repeat(200)} HTTP/1.1\r\nHost: x\r\n\r\n`], status: 414 },
  'an expectation that Node does not know': { parts: ['GET / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n'], status: 417 }
}
for (const [what, { parts, status, prepare }] of Object.entries(lastRequests)) {
  t.test(`a callback with \`when: 'start'\` that waits until the server is closed does not wait for a connection that is idle after ${what}`, async t => {
    const app = Fastify() as FastifyInstance
    prepare?.(app)
    void app.register(gracefulPlugin)
    app.route({ method: ['GET', 'POST'], url: '/', handler: async () => 'served' })
    app.get('/by/:name', async () => 'served')
    await app.ready()
    app.gracefulShutdown.onShutdown(async () => { await new Promise(resolve => { app.server.close(resolve) }) }, { when: 'start' })
    const port = await listen(app)
    const idle = new RawClient(port)
    for (const [index, part] of parts.entries()) {
      if (index > 0) await idle.until(/HTTP/)
      idle.send(part)
    }
    await idle.until(new RegExp(`^HTTP/1.1 ${status} `))
    // The service has read what was sent last once it has answered a client that has connected later.
    await new RawClient(port).get('/').until(/served/)
    const silent = new RawClient(port)
    await once(silent.socket, 'connect')
    const { exitCode, time } = await app.gracefulShutdown.shutdown()
    t.equal(exitCode, 0)
    t.ok(time < 5_000, `took ${time}ms`)
  })
}

for (const [what, closeFirst] of Object.entries<(app: FastifyInstance) => unknown>({
  'server.close()': app => app.server.close(),
  'server.close(), while that is in progress': app => { app.server.close() },
  'fastify.close()': async app => { await app.close() }
})) {
  t.test(`a callback of server.close() gets the error of Node after ${what}`, async t => {
    for (const hasPlugin of [false, true]) {
      const app = Fastify()
      if (hasPlugin) await app.register(gracefulPlugin)
      await listen(app)
      const closed = once(app.server, 'close')
      await closeFirst(app)
      if (!what.includes('progress')) await closed
      const error = await new Promise<Error | undefined>(resolve => { app.server.close(resolve) })
      t.match(error, { code: 'ERR_SERVER_NOT_RUNNING' }, String(hasPlugin))
      await app.close()
    }
  })
}

t.test('a callback of the first server.close() by other code gets no error, although the shutdown has closed the server', async t => {
  const { app } = await createApp(t)
  const errors: unknown[] = []
  app.gracefulShutdown.onShutdown(async () => { errors.push(await new Promise(resolve => { app.server.close(resolve) })) })
  await listen(app)
  await app.gracefulShutdown.shutdown()
  t.strictSame(errors, [undefined])
})

t.test('a callback of server.close() that is no function is ignored, as by Node', async t => {
  const app = Fastify() as FastifyInstance
  void app.register(gracefulPlugin)
  await listen(app)
  for (let call = 0; call < 2; call++) app.server.close(null as unknown as undefined)
  t.match(await app.gracefulShutdown.wait(), { exitCode: 0 })
})

for (const [what, replaced] of Object.entries({
  'calls back at once': (callback: (error?: Error) => void) => { callback() },
  'calls back a little later': (callback: (error?: Error) => void) => { process.nextTick(callback) },
  'calls back with an error': (callback: (error?: Error) => void) => { callback(new Error('not possible')) }
})) {
  t.test(`a replaced server.close() that ${what}, and leaves the server open, does not hold up the close`, async t => {
    const app = Fastify({ serverFactory: handler => {
      const server = createServer(handler)
      const { close } = server
      t.teardown(() => { close.call(server) })
      server.close = callback => {
        replaced(callback ?? (() => {}))
        return server
      }
      return server
    } }) as unknown as FastifyInstance
    await app.register(gracefulPlugin)
    const ran: string[] = []
    app.addHook('onClose', async () => { ran.push('onClose') })
    app.registerShutdownCallback(() => { ran.push('callback') })
    await listen(app)
    const { errors, time } = await app.gracefulShutdown.shutdown()
    t.strictSame({ ran, errors }, { ran: ['onClose', 'callback'], errors: [] })
    t.ok(time < 1_000, `took ${time}ms`)
  })
}

t.test("no test of this file has left a subscriber on Node's channels", async t => {
  await eventually(() => subscribed().length === 0)
  t.strictSame(subscribed(), [])
})
