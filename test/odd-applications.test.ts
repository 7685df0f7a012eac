// Applications that use Fastify's objects, the logger or Node's servers and sockets in unusual ways.

import t from 'tap'
import type { Test } from 'tap'
import type { FastifyInstance, FastifyReply, FastifyServerOptions } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { GracefulOptions, ShutdownReport } from '../types/index.ts'
import { createServer as createHttpServer, request as sendRequest } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import proxy from '@fastify/http-proxy'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import {
  checkOften, COVERED, createApp, Deferred, eventually, heldRoute, listen, listenOnLocalhost, portOf, RawClient, runNode, visit
} from './helpers.ts'

/** What a handler does to Fastify's objects, and how its request is named afterwards. */
const damages: Record<string, { code: string, url: string | undefined }> = {
  'the URL of the raw request': { code: 'request.raw.url = undefined', url: undefined },
  'the log of the reply': { code: 'reply.log = null', url: '/held' },
  'the raw request': { code: 'request.raw = null', url: undefined }
}

for (const [what, { code, url }] of Object.entries(damages)) {
  t.test(`a request whose handler takes away ${what} is cut at the drain timeout and named`, async t => {
    // In its own process, because Fastify throws an uncaught TypeError when such a request is answered.
    const program = runNode(t, ['--input-type=module', '--eval', `
      import Fastify from 'fastify'
      import gracefulPlugin from ${JSON.stringify(new URL('../index.ts', import.meta.url).href)}
      const app = Fastify({ logger: true })
      await app.register(gracefulPlugin, { drainTimeout: 100 })
      app.get('/held', async (request, reply) => {
        ${code}
        app.log.info({ list: app.gracefulShutdown.inFlight() }, 'damaged')
        await new Promise(() => {})
      })
      app.gracefulShutdown.onShutdown(() => { app.log.info('cleanup') })
      await app.listen({ port: 0, host: '127.0.0.1' })
      process.once('SIGUSR1', async () => {
        const { cut, exitCode } = await app.gracefulShutdown.shutdown()
        app.log.info({ cut, exitCode }, 'resolved')
        process.exit(exitCode)
      })`], COVERED)
    const client = new RawClient(await portOf(program)).get('/held')
    const named = [{ kind: 'request', method: 'GET', route: '/held', url, reqId: 'req-1' }]
    t.match((await program.log.line(/^damaged$/)).list, named)
    program.kill('SIGUSR1')
    t.match(await program.exit, { code: 1 })
    const { cut, exitCode } = await program.log.line(/^resolved$/)
    t.match(cut, named)
    t.equal((cut as unknown[]).length, 1)
    t.equal(exitCode, 1)
    t.equal(program.log.messages(/^cleanup$/).length, 1)
    await client.closed
  })
}

t.test('a logger that shuts down when an error is logged joins the shutdown that logs it', async t => {
  const unhandled: unknown[] = []
  const onUnhandled = (reason: unknown): void => { unhandled.push(reason) }
  process.on('unhandledRejection', onUnhandled)
  t.teardown(() => { process.off('unhandledRejection', onUnhandled) })
  const joined: Array<Promise<ShutdownReport>> = []
  const target: { app?: FastifyInstance } = {}
  const ignore = (): void => {}
  const loggerInstance = {
    level: 'info', silent: ignore, trace: ignore, debug: ignore, info: ignore, warn: ignore, fatal: ignore,
    error: () => {
      if (target.app !== undefined) joined.push(target.app.gracefulShutdown.shutdown('an error was logged'))
    },
    child: () => loggerInstance
  } as unknown as NonNullable<FastifyServerOptions['loggerInstance']>
  const { app } = await createApp(t, {}, { logger: undefined, loggerInstance } as object)
  target.app = app
  let runs = 0
  app.gracefulShutdown.onShutdown(() => { runs++ })
  await listen(app)
  const report = await app.gracefulShutdown.shutdown(new Error('x'))
  t.ok(joined.length > 0)
  for (const other of await Promise.all(joined)) t.equal(other, report)
  t.match(report, { errors: [{ message: 'x' }], callbacks: [{}], exitCode: 1 })
  t.equal(report.errors.length, 1)
  t.equal(runs, 1)
  // Node reports unhandled rejections after the microtasks have run.
  await sleep(0)
  t.strictSame(unhandled, [])
})

/** The work of a handler, which cleanup must wait for. */
function workOf (app: FastifyInstance): { work: () => Promise<void>, started: Promise<void>, finish: () => void, events: string[] } {
  const [started, released] = [new Deferred(), new Deferred()]
  const events: string[] = []
  app.gracefulShutdown.onShutdown(() => { events.push('cleanup') })
  const work = async (): Promise<void> => {
    started.resolve()
    await released.promise
    events.push('worked')
  }
  return { work, started: started.promise, finish: () => { released.resolve() }, events }
}

t.test('an async error handler is waited for, also if the client has disconnected before the handler rejects', async t => {
  const { app, log } = await createApp(t)
  const { work, started, finish, events } = workOf(app)
  const [entered, failing] = [new Deferred(), new Deferred()]
  app.setErrorHandler(async (_error, _request, reply) => {
    await work()
    return await reply.code(500).send('failed')
  })
  app.get('/', async () => {
    entered.resolve()
    await failing.promise
    throw new Error('rejected')
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/')
  await entered.promise
  await leave()
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  await log.line(/Waiting for 1 in-flight request /)
  failing.resolve()
  await started
  await Promise.race([sleep(100), report])
  t.equal(app.inFlightRequests, 1)
  t.equal(app.gracefulShutdown.phase, 'draining')
  finish()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['worked', 'cleanup'])
})

/** Handlers whose response another handler sends, and one of the two continues to work. */
const nested: Record<string, { status: number, add: (app: FastifyInstance, work: () => Promise<void>) => void }> = {
  'an async error handler that continues to work after a handler has sent an error': {
    status: 500,
    add: (app, work) => {
      app.setErrorHandler(async (_error, _request, reply) => {
        reply.code(500).send('failed')
        await work()
      })
      app.get('/', async (_request, reply) => {
        await sleep(0)
        return await reply.send(new Error('sent'))
      })
    }
  },
  'a handler that continues to work after callNotFound()': {
    status: 404,
    add: (app, work) => {
      app.setNotFoundHandler(async (_request, reply) => {
        reply.code(404).send('not found')
        await sleep(0)
      })
      app.get('/', async (_request, reply) => {
        await sleep(0)
        reply.callNotFound()
        await work()
        return reply
      })
    }
  }
}

for (const [what, { status, add }] of Object.entries(nested)) {
  t.test(`${what} is waited for`, async t => {
    const { app, log } = await createApp(t)
    const { work, started, finish, events } = workOf(app)
    add(app, work)
    const client = new RawClient(await listen(app)).get('/')
    await client.until(new RegExp(`^HTTP/1.1 ${status}`))
    await started
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    await Promise.race([log.line(/Waiting for 1 in-flight request /), report])
    // Longer than the other handler takes to return.
    await Promise.race([sleep(100), report])
    t.equal(app.gracefulShutdown.phase, 'draining')
    finish()
    t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    t.strictSame(events, ['worked', 'cleanup'])
  })
}

t.test('an upload that has arrived and that no parser has read counts until its handler is done, although its client has disconnected', async t => {
  const { app, log } = await createApp(t)
  const { work, started, finish, events } = workOf(app)
  const [entered, prepared] = [new Deferred(), new Deferred()]
  // As @fastify/multipart does.
  app.addContentTypeParser('multipart/form-data', (_request, _payload, done) => { done(null) })
  const preHandler = async (): Promise<void> => {
    entered.resolve()
    await prepared.promise
  }
  app.post('/', { preHandler }, async () => {
    await work()
    return 'kept'
  })
  const { client, leave } = await visit(app, await listen(app))
  const body = '--X\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--X--\r\n'
  client.send(['POST / HTTP/1.1', 'Host: test', 'Content-Type: multipart/form-data; boundary=X', `Content-Length: ${body.length}`, '', body].join('\r\n'))
  await entered.promise
  await leave()
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  await Promise.race([log.line(/Waiting for 1 in-flight request /), report])
  prepared.resolve()
  await Promise.race([started, report])
  t.equal(app.inFlightRequests, 1)
  await Promise.race([sleep(100), report])
  t.equal(app.gracefulShutdown.phase, 'draining')
  finish()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['worked', 'cleanup'])
})

/** Places where a request whose body has been parsed may be held before its handler runs. */
const holds: Record<string, (app: FastifyInstance, hold: () => Promise<void>) => string> = {
  'an app-wide preValidation hook': (app, hold) => {
    app.addHook('preValidation', hold)
    return '/'
  },
  'a body parser that has all of it': (app, hold) => {
    app.addContentTypeParser('application/json', { parseAs: 'buffer' }, async () => { await hold() })
    return '/'
  },
  'a preHandler hook of the not-found handler': (app, hold) => {
    app.setNotFoundHandler({ preHandler: hold }, async () => 'not found')
    return '/nowhere'
  }
}

for (const [what, add] of Object.entries(holds)) {
  t.test(`an upload that ${what} holds counts until it is answered, although its client has disconnected`, async t => {
    const { app } = await createApp(t)
    const [entered, released] = [new Deferred(), new Deferred()]
    let answered = false
    const url = add(app, async () => {
      entered.resolve()
      await released.promise
    })
    app.post('/', async () => 'kept')
    app.addHook('onSend', async () => { answered = true })
    app.gracefulShutdown.onShutdown(() => { t.ok(answered, 'cleanup runs after the answer') })
    const { client, leave } = await visit(app, await listen(app))
    client.send(`POST ${url} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`)
    await entered.promise
    await leave()
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    released.resolve()
    t.match(await report, { cut: { length: 0 }, callbacks: [{}], exitCode: 0 })
  })
}

t.test('a request that a handler passes to fastify.routing once more counts once', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const other = heldRoute(app, '/other')
  app.get('/old', async (request, reply) => {
    await other.entered
    reply.hijack()
    request.raw.url = '/held'
    app.routing(request.raw, reply.raw)
    return reply
  })
  const port = await listen(app)
  const client = new RawClient(port).get('/old')
  await eventually(() => app.inFlightRequests === 1)
  const last = new RawClient(port).get('/other')
  await held.entered
  t.equal(app.inFlightRequests, 2)
  t.match(app.gracefulShutdown.inFlight(), [{ route: '/held' }, { route: '/other' }])
  other.release()
  await last.until(/held/)
  held.release()
  await client.until(/held/)
  await eventually(() => app.inFlightRequests === 0)
})

t.test('instances that share connections each count their own requests, also when a client disconnects', async t => {
  const { app: front } = await createApp(t)
  const { app: back } = await createApp(t)
  const here = heldRoute(front, '/here')
  const there = heldRoute(back, '/there')
  await back.ready()
  front.get('/there', (request, reply) => {
    reply.hijack()
    back.routing(request.raw, reply.raw)
  })
  const port = await listen(front)
  const staying = new RawClient(port).get('/here')
  await here.entered
  const { client, leave } = await visit(front, port)
  client.get('/there')
  await there.entered
  await leave()
  there.release()
  await eventually(() => back.inFlightRequests === 0)
  await eventually(() => front.inFlightRequests === 1)
  t.match(front.gracefulShutdown.inFlight(), [{ url: '/here' }])
  const report = front.gracefulShutdown.shutdown()
  here.release()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  await staying.closed
  t.match(staying.text, /^HTTP\/1\.1 200 /)
})

/** Plugins that handle upgrades. */
const upgraders: Record<string, (app: FastifyInstance) => Promise<void>> = {
  '@fastify/websocket': async app => { await app.register(websocket) },
  '@fastify/http-proxy': async app => { await app.register(proxy, { upstream: 'http://127.0.0.1:1', prefix: '/proxied', websocket: true }) }
}

for (const [what, add] of Object.entries(upgraders)) {
  t.test(`a request that offers h2c to a plain route, with ${what}, counts, and a new one is rejected while draining`, async t => {
    const { app, log } = await createApp(t)
    // Added first, because @fastify/websocket rejects upgrades on plain routes that are added after it.
    const held = heldRoute(app)
    await add(app)
    const port = await listen(app)
    const offer = ['Connection: Upgrade', 'Upgrade: h2c']
    const { client: late } = await visit(app, port)
    const client = new RawClient(port).get('/held', offer)
    await held.entered
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    await Promise.race([log.line(/Waiting for 1 in-flight request /), report])
    late.get('/held', offer)
    await late.closed
    t.match(late.text, /^HTTP\/1\.1 503 /)
    t.equal(app.gracefulShutdown.phase, 'draining')
    t.equal(app.inFlightRequests, 1)
    held.release()
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK[^]*\{"held":true\}$/)
    t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })
}

t.test("if a middleware's replaced end() does not end its response by the drain timeout, the client gets one 503, without a mixture of responses", async t => {
  const { app } = await createApp(t, { drainTimeout: 100 })
  const [entered, stored] = [new Deferred(), new Deferred()]
  let ended = 0
  // As in express-session, which stores the session first.
  app.addHook('onRequest', (_request, { raw }, _done) => {
    const { end } = raw
    raw.end = ((...args: Parameters<typeof end>) => {
      void stored.promise.then(() => {
        end.apply(raw, args)
        ended++
      })
      return raw
    }) as typeof end
    raw.statusCode = 200
    raw.setHeader('x-own', '1')
    raw.end('own answer')
    entered.resolve()
  })
  app.get('/', async () => 'not reached')
  const client = new RawClient(await listen(app)).get('/')
  await entered.promise
  const report = app.gracefulShutdown.shutdown()
  await client.closed
  stored.resolve()
  t.match(await report, { cut: [{ kind: 'request', url: '/' }], exitCode: 1 })
  await eventually(() => ended > 0)
  t.match(client.text, /^HTTP\/1\.1 503 (?:(?!x-own)[^])*FST_ERR_GRACEFUL_DRAIN_TIMEOUT[^\n]*$/)
})

t.test("middleware that calls Node's own end() after its response has been answered in its place, and waits in a pipeline, causes no error", async t => {
  const { app, log } = await createApp(t, { writeTimeout: false })
  const held = heldRoute(app)
  const endings: Array<() => void> = []
  app.addHook('onRequest', async ({ url }, { raw }) => {
    const { end } = raw
    if (url === '/late') endings.push(() => { (end as (body: string) => void).call(raw, 'own answer') })
  })
  app.get('/late', { config: { gracefulShutdown: { writeTimeout: 50 } } }, async () => { await new Promise(() => {}) })
  const client = new RawClient(await listen(app)).get('/held').get('/late')
  await log.line(/^Request cut/)
  for (const end of endings) end()
  held.release()
  await client.until(/"held":true[^]*HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_WRITE_TIMEOUT[^\n]*$/)
  t.equal(endings.length, 1)
  t.equal(app.gracefulShutdown.phase, 'running')
  client.socket.destroy()
})

t.test('probes and refusals are sent although middleware ends each response later, or never', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  for (const ends of [true, false]) {
    app.addHook('onRequest', async (_request, { raw }) => {
      const { end } = raw
      Object.assign(raw, { writeHead: () => { throw new Error('not this one') } })
      raw.end = ((...args: Parameters<typeof end>) => {
        if (ends) setImmediate(() => { end.apply(raw, args) })
        return raw
      }) as typeof end
    })
  }
  await app.register(gracefulPlugin)
  const port = await listen(app)
  const { shutdown, track } = app.gracefulShutdown
  const work = new Deferred()
  void track(work.promise, 'work')
  const ask = async (path: string): Promise<string> => {
    const client = new RawClient(port).get(path, ['Connection: close'])
    await client.closed
    return client.text
  }
  t.match(await ask('/ready'), /^HTTP\/1\.1 200 [^]*"ready":true/)
  const report = shutdown()
  t.match(await ask('/ready'), /^HTTP\/1\.1 503 [^]*"shutting_down"/)
  t.match(await ask('/'), /^HTTP\/1\.1 503 [^]*connection: close[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/i)
  work.resolve()
  t.match(await report, { refused: 1, exitCode: 0 })
})

t.test('an event stream is recognized although headersSent of its response is not that of Node, as with @fastify/express', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 50 })
  app.addHook('onRequest', async (_request, { raw }) => {
    Object.defineProperty(raw, 'headersSent', { get: () => false, configurable: true })
  })
  app.get('/events', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: hello\n\n')
  })
  app.get('/raw', (_request, { raw }) => { raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('hello') })
  const port = await listen(app)
  const client = new RawClient(port).get('/events')
  const left = new RawClient(port).get('/raw', ['Accept: text/event-stream'])
  await Promise.all([client.until(/hello/), left.until(/hello/)])
  // Several times the writeTimeout, which is checked every 10 ms.
  await sleep(300)
  t.strictSame(log.messages(/^Request cut/), [])
  left.socket.destroy()
  await eventually(() => app.inFlightRequests === 1)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  await client.closed
  t.match(client.text, /\r\n0\r\n\r\n$/)
})

t.test('unref() on a server that listens on both loopback addresses of localhost does not shut the service down', async t => {
  t.teardown(resolveToBothLoopbacks())
  const { app, log } = await createApp(t)
  app.get('/', async () => 'served')
  await listenOnLocalhost(app)
  t.equal(app.addresses().length, 2)
  app.server.unref()
  // The event of a closed server comes in a later turn.
  await eventually(() => app.addresses().length === 1)
  const { address, port } = app.server.address() as AddressInfo
  const client = new RawClient(connect(port, address)).get('/')
  await client.until(/served$/)
  t.equal(app.gracefulShutdown.phase, 'running')
  t.strictSame(log.messages(/shut(?:ting)? down/i), [])
  t.match(await app.gracefulShutdown.shutdown(), { reason: 'shutdown', cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

/** Ways to take a socket out of a server. */
const handovers: Record<string, { event: 'connect' | 'upgrade', head: string }> = {
  'a CONNECT': { event: 'connect', head: 'CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n' },
  'an upgrade': { event: 'upgrade', head: 'GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n' }
}

for (const [what, { event, head }] of Object.entries(handovers)) {
  for (const to of ['the same server', "another instance's server"]) {
    t.test(`a socket that is handed to ${to} after ${what} is served, and the instances shut down without errors`, async t => {
      const { app } = await createApp(t)
      const { app: another } = await createApp(t)
      const receiver = to === 'the same server' ? app : another
      const held = heldRoute(receiver)
      app.server.on(event, (_request: unknown, socket: Socket) => {
        socket.write('HTTP/1.1 200 Handed over\r\n\r\n')
        receiver.server.emit('connection', socket)
      })
      const [port] = [await listen(app), await listen(another)]
      const client = new RawClient(port).send(head)
      await client.until(/Handed over\r\n\r\n/)
      client.get('/held')
      await held.entered
      t.equal(receiver.inFlightRequests, 1)
      const report = receiver.gracefulShutdown.shutdown()
      held.release()
      await client.closed
      t.match(client.text, /\{"held":true\}$/)
      t.match(await report, { completed: 1, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      const other = receiver === app ? another : app
      t.match(await other.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      t.strictSame([app.inFlightRequests, another.inFlightRequests], [0, 0])
    })
  }
}

t.test('close() passes to its callback what avvio does, depending on its number of parameters', async t => {
  type Wrap = (resolve: (args: unknown[]) => void) => unknown
  const close = async (app: FastifyInstance, wrap: Wrap): Promise<unknown[]> => await new Promise(resolve => {
    (app.close as (listener: unknown) => unknown)(wrap(resolve))
  })
  const { app: first } = await createApp(t)
  const two = await close(first, resolve => (error: unknown, done: unknown) => { resolve([error, done]) })
  t.equal(two[0], null)
  t.type(two[1], 'function')
  ;(two[1] as () => void)()

  const { app: second } = await createApp(t)
  const three = await close(second, resolve => (error: unknown, instance: unknown, done: unknown) => { resolve([error, instance, done]) })
  t.equal(three[0], null)
  t.equal(three[1], second)
  t.type(three[2], 'function')
  ;(three[2] as () => void)()
})

t.test("times given to Fastify that equal Node's defaults are kept", async t => {
  for (const given of [{ keepAliveTimeout: 5_000 }, { requestTimeout: 300_000 }]) {
    const { app } = await createApp(t, {}, given)
    await listen(app)
    t.match(app.server, given)
  }
})

/** How an application of its own handles a request that Fastify does not get, or gets later. */
const ownListeners: Record<string, {
  expect: string
  status: number
  handle: (app: FastifyInstance, held: () => Promise<void>) => void
}> = {
  'a checkContinue listener': {
    expect: '100-continue',
    status: 200,
    handle: ({ server }, held) => {
      server.on('checkContinue', (incoming: IncomingMessage, response: ServerResponse) => {
        void held().then(() => {
          response.writeContinue()
          server.emit('request', incoming, response)
        })
      })
    }
  },
  'a checkExpectation listener': {
    expect: 'something else',
    status: 417,
    handle: ({ server }, held) => {
      server.on('checkExpectation', (_incoming, response: ServerResponse) => {
        void held().then(() => response.writeHead(417).end())
      })
    }
  },
  'a request listener in place of those that were there': {
    expect: '',
    status: 418,
    handle: ({ server }, held) => {
      server.removeAllListeners('request').on('request', (_incoming, response: ServerResponse) => {
        void held().then(() => response.writeHead(418).end())
      })
    }
  }
}

for (const [what, { expect, status, handle }] of Object.entries(ownListeners)) {
  for (const isHttp2 of [false, true]) {
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a request that is held by ${what} counts once, and is answered`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      app.get('/', async () => 'answer')
      const port = await listen(app)
      const [entered, left] = [new Deferred(), new Deferred()]
      handle(app, async () => {
        entered.resolve()
        await left.promise
      })
      const answered = new Deferred<unknown>()
      if (isHttp2) {
        const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
        t.teardown(() => { session.destroy() })
        const headers = { ':path': '/', ...expect !== '' && { expect } }
        const stream = session.request(headers).on('error', answered.reject).on('response', ({ ':status': code }) => { answered.resolve(code) })
        stream.resume().end()
      } else {
        const headers = expect === '' ? {} : { expect }
        sendRequest({ port, headers }, ({ statusCode }) => { answered.resolve(statusCode) }).on('error', answered.reject).end()
      }
      await entered.promise
      t.equal(app.inFlightRequests, 1)
      const report = app.gracefulShutdown.shutdown()
      for (let turn = 0; turn < 20; turn++) await new Promise(resolve => { setImmediate(resolve) })
      t.equal(app.gracefulShutdown.phase, 'draining')
      left.resolve()
      t.equal(await answered.promise, status)
      t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
    })
  }
}

t.test('work that an onClose hook tracks ends before shutdown callbacks run', async t => {
  const { app } = await createApp(t)
  const events: string[] = []
  const left = new Deferred()
  app.addHook('onClose', async () => {
    void app.gracefulShutdown.track(left.promise.then(() => { events.push('flushed') }), 'flush')
    setImmediate(left.resolve)
  })
  app.registerShutdownCallback(() => { events.push('database closed') })
  await listen(app)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['flushed', 'database closed'])
})

t.test('work that follows tracked work in the next turn of the event loop is waited for', async t => {
  const { app } = await createApp(t)
  const events: string[] = []
  app.registerShutdownCallback(() => { events.push('database closed') })
  await listen(app)
  void (async () => {
    for (const job of ['first', 'second', 'third']) {
      await app.gracefulShutdown.track(async () => {
        await sleep(20)
        events.push(job)
      }, job)
      await new Promise(resolve => { setImmediate(resolve) })
    }
  })()
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['first', 'second', 'third', 'database closed'])
})

t.test('background work that is cut at the drain timeout is logged once per shutdown', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 100 })
  void app.gracefulShutdown.track(new Promise(() => {}), 'import')
  await listen(app)
  const { cut } = await app.gracefulShutdown.shutdown()
  t.match(cut, [{ kind: 'task', name: 'import' }])
  t.equal(cut.length, 1)
  t.strictSame(log.messages(/^Background work cut/), ['Background work cut: import'])
})

t.test('background work that is cut at the drain timeout is logged once, also if the exit is forced later', async t => {
  const { log, kill, exit } = runNode(t, ['--input-type=module', '--eval', `
    import Fastify from 'fastify'
    import gracefulPlugin from ${JSON.stringify(new URL('../index.ts', import.meta.url).href)}
    const app = Fastify({ logger: true })
    // Longer than the time in which a second signal counts as a copy of the first one.
    await app.register(gracefulPlugin, { drainTimeout: 300 })
    app.gracefulShutdown.track(new Promise(() => {}), 'import')
    app.gracefulShutdown.onShutdown(async () => {
      app.log.info('callback')
      await new Promise(() => {})
    })
    await app.listen({ port: 0, host: '127.0.0.1' })`], COVERED)
  await log.line(/listening at/)
  kill('SIGTERM')
  await log.line(/^callback$/)
  kill('SIGINT')
  t.match(await exit, { code: 1 })
  t.match(log.messages(/^Second signal/), [/exiting at once/])
  t.strictSame(log.messages(/^Background work cut/), ['Background work cut: import'])
})

t.test('an opted-out request whose client has disconnected, and whose handler never answers, does not delay the shutdown', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  app.get('/feed', { config: { gracefulShutdown: false } }, async () => {
    entered.resolve()
    await new Promise(() => {})
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/feed')
  await entered.promise
  await leave()
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  t.ok(report.time < 1_000, `took ${report.time}ms`)
})

/** What Fastify sends like a stream, although it is none of Node's. */
class StreamLike {
  readonly readable = true
  readonly #source = slowly()

  on (event: string, listener: () => void): this {
    this.#source.on(event, listener)
    return this
  }

  once (event: string, listener: () => void): void {
    if (typeof event !== 'string') throw new TypeError('not a name')
    this.#source.once(event, listener)
  }

  removeListener (event: string, listener: () => void): this {
    this.#source.removeListener(event, listener)
    return this
  }

  pipe (destination: NodeJS.WritableStream): NodeJS.WritableStream {
    return this.#source.pipe(destination)
  }

  destroy (): void {
    this.#source.destroy()
  }
}

/** It takes longer than the interval of the plugin's sweeps. */
function slowly (): Readable {
  return Readable.from((async function * () {
    for (const row of ['a', 'b', 'c']) {
      await sleep(60)
      yield row
    }
  })())
}

const payloads: Record<string, () => unknown> = {
  'an object with getters that throw': () => ({
    a: 1,
    toJSON: () => ({ a: 1 }),
    get once () { throw new Error('removed') },
    get destroy () { throw new Error('removed') }
  }),
  'an object that only looks like a stream': () => new StreamLike(),
  'a frozen object that only looks like a stream': () => Object.freeze(new StreamLike()),
  'a stream with a once() that returns nothing': () => {
    const stream = slowly()
    const { once } = stream
    return Object.assign(stream, { once: (...args: Parameters<typeof once>) => { once.apply(stream, args) } })
  },
  'a stream with a once() that takes only names': () => {
    const stream = slowly()
    const { once } = stream
    return Object.assign(stream, {
      once: (event: string, ...args: [() => void]) => {
        if (typeof event !== 'string') throw new TypeError('not a name')
        return once.call(stream, event, ...args)
      }
    })
  },
  'a stream with a getter that throws': () => Object.defineProperty(slowly(), 'readableFlowing', { get: () => { throw new Error('removed') } }),
  'a stream that cannot be observed': () => Object.defineProperty(slowly(), 'emit', { value: Readable.prototype.emit, writable: false })
}

for (const [what, create] of Object.entries(payloads)) {
  t.test(`${what} is sent as without the plugin`, async t => {
    const texts: string[][] = []
    for (const hasPlugin of [false, true]) {
      const app = hasPlugin ? (await createApp(t)).app : Fastify()
      if (hasPlugin) checkOften(app)
      app.get('/returned', async () => create())
      app.get('/sent', (_request, reply) => { setTimeout(() => { reply.send(create()) }, 1) })
      const port = await listen(app)
      const clients = ['/returned', '/sent'].map(path => new RawClient(port).get(path, ['Connection: close']))
      await Promise.all(clients.map(async ({ closed }) => { await closed }))
      texts.push(clients.map(({ text }) => text.replace(/^date: .*$/im, '')))
      if (hasPlugin) {
        await eventually(() => app.inFlightRequests === 0)
        t.notOk(app.isShuttingDown)
      }
      await app.close()
    }
    for (const text of texts[1] ?? []) t.match(text, /^HTTP\/1\.1 200 /)
    t.strictSame(texts[1], texts[0])
  })
}

const failures: Record<string, (app: FastifyInstance, error: unknown) => void> = {
  'throws in an async hook': (app, error) => { app.addHook('onRequest', async () => { throw error }) }, // oxlint-disable-line only-throw-error
  'passes to a callback of a hook': (app, error) => { app.addHook('preHandler', (_request, _reply, done) => { done(error as Error) }) },
  'throws in a handler': (app, error) => { app.setErrorHandler(() => { throw error }) }, // oxlint-disable-line only-throw-error
  'rejects with in a handler': (app, error) => { app.setErrorHandler(async () => { throw error }) } // oxlint-disable-line only-throw-error
}

for (const [how, add] of Object.entries(failures)) {
  t.test(`a revoked proxy that an application ${how} is answered as without the plugin`, async t => {
    const answers: string[] = []
    for (const hasPlugin of [false, true]) {
      const app = hasPlugin ? (await createApp(t)).app : Fastify()
      const { proxy: error, revoke } = Proxy.revocable({}, {})
      revoke()
      add(app, error)
      app.get('/', async () => { throw new Error('failed') })
      const client = new RawClient(await listen(app)).get('/', ['Connection: close'])
      await client.closed
      answers.push(client.text.replace(/^date: .*$/im, ''))
      if (hasPlugin) {
        await eventually(() => app.inFlightRequests === 0)
        t.notOk(app.isShuttingDown)
      }
      await app.close()
    }
    t.match(answers[0], /^HTTP\/1\.1 \d/)
    t.strictSame(answers[1], answers[0])
  })
}

/** As a wrapper of other code does, with the defaults of Object.defineProperty(): it can be neither changed nor configured. */
function fix (object: object, name: string): void {
  const { [name]: method } = object as Record<string, (...args: unknown[]) => unknown>
  Object.defineProperty(object, name, { value: (...args: unknown[]) => method?.apply(object, args) })
}

const fixed: Record<string, (reply: FastifyReply) => void> = {
  'writeHead() of the response': ({ raw }) => { fix(raw, 'writeHead') },
  'end() of the response': ({ raw }) => { fix(raw, 'end') },
  'setHeader() of the response': ({ raw }) => { fix(raw, 'setHeader') },
  'on() of the response': ({ raw }) => { fix(raw, 'on') },
  'shouldKeepAlive of the response': ({ raw }) => { Object.defineProperty(raw, 'shouldKeepAlive', { get: () => true }) },
  'on() of the request': ({ request }) => { fix(request.raw, 'on') },
  'the method of the request': ({ request }) => { Object.defineProperty(request.raw, 'method', { value: Object.create(null) }) },
  'code() of the reply': reply => { fix(reply, 'code') },
  'hijack() of the reply': reply => { fix(reply, 'hijack') }
}

for (const [what, change] of Object.entries(fixed)) {
  const start = async (t: Test, options: GracefulOptions = {}) => {
    const { app } = await createApp(t, options)
    const ran: string[] = []
    app.addHook('onClose', async () => { ran.push('onClose') })
    app.registerShutdownCallback(() => { ran.push('callback') })
    const entered = new Deferred()
    const released = new Deferred()
    app.get('/', async (_request, reply) => {
      change(reply)
      entered.resolve()
      await released.promise
      return 'answer'
    })
    const held = heldRoute(app)
    const port = await listen(app)
    return { app, ran, entered, released, held, port, client: new RawClient(port).get('/') }
  }

  t.test(`a request is waited for although ${what} cannot be changed`, async t => {
    const { app, ran, entered, released, client } = await start(t)
    await entered.promise
    const report = app.gracefulShutdown.shutdown()
    released.resolve()
    t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK\r\n[^]*answer$/)
    t.strictSame(ran, ['onClose', 'callback'])
  })

  t.test(`a client that disconnects does not disturb the service although ${what} cannot be changed`, async t => {
    const { app, entered, released, client, held, port } = await start(t)
    await entered.promise
    client.socket.destroy()
    await client.closed
    const next = new RawClient(port).get('/held')
    await held.entered
    released.resolve()
    held.release()
    await next.until(/"held":true/)
    await eventually(() => app.inFlightRequests === 0)
    t.notOk(app.isShuttingDown)
  })

  t.test(`all requests are cut at drainTimeout although ${what} of one cannot be changed`, async t => {
    const { app, ran, entered, released, client, held, port } = await start(t, { drainTimeout: 100 })
    await entered.promise
    const next = new RawClient(port).get('/held')
    await held.entered
    const report = await app.gracefulShutdown.shutdown()
    await Promise.all([client.closed, next.closed])
    for (const { text } of [client, next]) t.match(text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT[^]*\}$/)
    t.match(report, { cut: { length: 2 }, errors: { length: 0 }, exitCode: 1 })
    t.strictSame(ran, ['onClose', 'callback'])
    released.resolve()
    held.release()
  })
}

/** Properties of Node's objects that other code replaces with getters that throw. */
const unreadable = {
  GET: [
    'reply.raw.destroyed', 'reply.raw.writableEnded', 'reply.raw.writableFinished', 'request.raw.destroyed', 'request.raw.socket.destroyed',
    'request.raw.stream.destroyed', 'request.raw.stream.closed', 'request.raw.stream.headersSent'
  ],
  // An upload that has half arrived.
  POST: ['request.raw.headers', 'request.raw.complete', 'request.raw.stream.state']
}

for (const [method, paths] of Object.entries(unreadable)) for (const path of paths) {
  const isHttp2 = path.includes('stream')
  const [, object = '', property = ''] = /(.*)\.(.*)/.exec(path) ?? []

  t.test(`a service goes on, and shuts down as usual, although ${path} of one ${method} request throws`, async t => {
    // In its own process, because Node itself may throw, too.
    const program = runNode(t, ['--input-type=module', '--eval', `
      import Fastify from 'fastify'
      import gracefulPlugin from ${JSON.stringify(new URL('../index.ts', import.meta.url).href)}
      const app = Fastify({ logger: true, ${isHttp2 ? 'http2: true' : ''} })
      await app.register(gracefulPlugin, { drainTimeout: 300, shutdownTimeout: 20_000 })
      const isIn = name => { app.log.info(name + ' is in') }
      const preParsing = async (request, reply) => {
        Object.defineProperty(${object}, '${property}', { get () { throw new Error('odd') } })
        isIn('odd')
        await new Promise(() => {})
      }
      app.route({ method: ['GET', 'POST'], url: '/odd', preParsing, handler: async () => {} })
      app.get('/held', async () => {
        isIn('held')
        await new Promise(() => {})
      })
      // Sweeps are frequent.
      app.get('/impatient', { config: { gracefulShutdown: { writeTimeout: 200 } } }, async () => 'answer')
      app.addHook('onClose', async () => { app.log.info('onClose runs') })
      app.gracefulShutdown.onShutdown(() => { app.log.info('callback runs') })
      await app.listen({ port: 0, host: '127.0.0.1' })`], COVERED)
    const port = await portOf(program)
    const origin = `http://127.0.0.1:${port}`
    const ask = (verb: string, name: string) => {
      if (isHttp2) askHttp2(t, origin, verb, `/${name}`)
      else if (verb === 'GET') new RawClient(port).get(`/${name}`)
      else new RawClient(port).send(`POST /${name} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf`)
    }
    for (const [verb, name] of [[method, 'odd'], ['GET', 'held']] as const) {
      ask(verb, name)
      await program.log.line(new RegExp(`^${name} is in`))
    }
    await sleep(500)
    program.kill('SIGTERM')
    t.strictSame(await program.exit, { code: 1, signal: null })
    t.match(program.log.messages(/received|runs$/), ['SIGTERM received, shutting down', 'onClose runs', 'callback runs'])
    // It may also be no longer counted, because its client seems to have disconnected.
    const named = program.log.lines.filter(({ level, route }) => level >= 40 && route !== undefined).map(({ route }) => route)
    t.strictSame(new Set(named), new Set(['/odd', '/held']))
    t.notMatch(program.output(), 'has not ended within shutdownTimeout')
  })
}

/** Sends a request on a connection of its own; with POST, half of it. */
function askHttp2 (t: Test, origin: string, method: string, path: string): void {
  const client = connectHttp2(origin).on('error', () => {})
  t.teardown(() => { client.destroy() })
  const stream = client.request({ ':method': method, ':path': path, 'content-type': 'text/plain' }, { endStream: method === 'GET' })
  stream.on('error', () => {}).resume()
  if (method === 'POST') stream.write('half')
}

t.test('a route is added although its config throws on an unknown key, its handler shows no properties, or a hook of its list is fixed', async t => {
  const { app } = await createApp(t)
  let responses = 0
  const onResponse = Object.defineProperty([], 0, { value: async () => { responses++ }, enumerable: true })
  const config = new Proxy({}, { get: (target, key) => key === 'gracefulShutdown' ? fail(key) : Reflect.get(target, key) as unknown })
  const handler = new Proxy(async () => 'answer', { ownKeys: () => fail('ownKeys') })
  app.get('/config', { config }, async () => 'answer')
  app.get('/handler', handler)
  app.get('/hooks', { onResponse }, async () => 'answer')
  for (const url of ['/config', '/handler', '/hooks']) t.equal((await app.inject(url)).body, 'answer', url)
  t.equal(responses, 1)
})

function fail (key: string): never {
  throw new Error(`unknown: ${key}`)
}

t.test('a handler gets as many arguments as other code passes', async t => {
  const { app } = await createApp(t)
  const counts: number[] = []
  app.get('/', {
    preHandler (request, reply) {
      const handler = request.routeOptions.handler as unknown as (...args: unknown[]) => unknown
      handler(request, reply, undefined, 4, 5)
    }
  }, (...args) => {
    counts.push(args.length)
    void args[1].send('answer')
  })
  t.equal((await app.inject('/')).body, 'answer')
  t.strictSame(counts, [5])
})

t.test('the shutdown starts although a socket cannot be listened to', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  app.registerShutdownCallback(() => { ran.push('callback') })
  app.server.on('connection', (socket: Socket) => { socket.prependListener = () => fail('prependListener') })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  t.match(await report, { cut: { length: 0 }, errors: [{ message: 'unknown: prependListener' }], exitCode: 1 })
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n[^]*"held":true/)
  t.strictSame(ran, ['onClose', 'callback'])
  await t.rejects(async () => { await app.close() }, { message: 'unknown: prependListener' })
})

t.test('a server with a close() and timeouts that cannot be changed is shut down', async t => {
  const { app } = await createApp(t, {}, {
    serverFactory: (handler: (request: IncomingMessage, response: ServerResponse) => void) => {
      const server = createHttpServer(handler)
      fix(server, 'close')
      for (const name of ['requestTimeout', 'headersTimeout', 'keepAliveTimeout', 'timeout']) {
        Object.defineProperty(server, name, { get: () => 60_000 })
      }
      return server
    }
  })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n[^]*"held":true/)
  t.notOk(app.server.listening)
})
