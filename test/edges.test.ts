// Rare cases.

import t from 'tap'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Socket } from 'node:net'
import { once } from 'node:events'
import { ServerResponse } from 'node:http'
import { connect, constants } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { Writable } from 'node:stream'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { COVERED, createApp, Deferred, eventually, HANDSHAKE, heldRoute, listen, Log, RawClient, runNode } from './helpers.ts'

t.test("waits for a route's own error handler", async t => {
  const { app } = await createApp(t)
  const work = new Deferred()
  const errorHandler = (_error: unknown, _request: unknown, reply: FastifyReply): unknown => {
    reply.code(500).send('mine')
    return work.promise
  }
  app.get('/', { errorHandler }, async () => { throw new Error('on purpose') })
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/mine/)
  t.equal(app.inFlightRequests, 1)
  work.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('keeps the preValidation hooks of a route that takes a body', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.post('/one', { preValidation: async () => { ran.push('one') } }, async ({ body }) => body)
  app.post('/two', { preValidation: [async () => { ran.push('two') }, async () => { ran.push('three') }] }, async ({ body }) => body)
  for (const url of ['/one', '/two']) t.strictSame((await app.inject({ method: 'POST', url, payload: { a: 1 } })).json(), { a: 1 })
  t.strictSame(ran, ['one', 'two', 'three'])
})

t.test('observes a not-found handler that has options, and replies with web streams', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.setNotFoundHandler({ preHandler: async () => { ran.push('preHandler') } }, async (_request, reply) => reply.code(404).send('mine'))
  app.get('/response', (_request, reply) => { reply.send(new Response('web')) })
  app.get('/stream', (_request, reply) => { reply.send(new Blob(['stream']).stream()) })
  t.equal((await app.inject('/nowhere')).body, 'mine')
  t.strictSame(ran, ['preHandler'])
  t.equal((await app.inject('/response')).body, 'web')
  t.equal((await app.inject('/stream')).body, 'stream')
  t.equal(app.inFlightRequests, 0)
})

t.test('names a request whose reply has been stripped of its properties', async t => {
  const { app } = await createApp(t)
  app.get('/', async (_request, reply) => {
    const { request } = reply
    Object.assign(reply, { request: null })
    const entries = app.gracefulShutdown.inFlight()
    reply.request = request
    return entries
  })
  t.match((await app.inject('/')).json(), [{ kind: 'request', method: 'GET' }])
})

t.test('a callback whose name is not a string is numbered', async t => {
  const { app } = await createApp(t)
  app.registerShutdownCallback(Object.defineProperty(() => {}, 'name', { value: 5 }))
  t.match((await app.gracefulShutdown.shutdown()).callbacks, [{ name: 'callback 1' }])
})

t.test('a logger that throws and a closed stderr do not stop a shutdown', async t => {
  const program = runNode(t, ['--input-type=module', '-e', `
    import { closeSync } from 'node:fs'
    import Fastify from 'fastify'
    import gracefulPlugin from ${JSON.stringify(new URL('../index.ts', import.meta.url).href)}
    const fails = () => { throw new Error('log') }
    const log = { level: 'info', fatal: fails, error: fails, warn: fails, info: fails, debug: fails, trace: fails, silent () {}, child: () => log }
    const app = Fastify({ loggerInstance: log, disableRequestLogging: true })
    await app.register(gracefulPlugin, { signals: false })
    app.registerShutdownCallback(() => { throw new Error('callback') })
    closeSync(2)
    const { exitCode, callbacks } = await app.gracefulShutdown.shutdown()
    console.log(exitCode, callbacks.length)
  `], COVERED)
  t.match(await program.exit, { code: 0, signal: null })
  t.match(program.output(), /^1 1$/m)
})

t.test('names what it waits for each second: by its URL, by its route, or as held by a hook', async t => {
  const log = new Log()
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { log.write(chunk.toString()); done() } })
  const app = Fastify({ logger: { level: 'debug', stream, serializers: { req: ({ method }) => ({ method }) } } }) as FastifyInstance
  t.teardown(async () => { await app.close() })
  const passed = new Deferred()
  app.addHook('onRequest', async ({ url }) => { if (url === '/ahead') await passed.promise })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  app.get('/ahead', async () => 'ahead')
  const port = await listen(app)
  const clients = [new RawClient(port).get('/held'), new RawClient(port).get('/ahead')]
  await eventually(() => app.inFlightRequests === 2)
  const report = app.gracefulShutdown.shutdown()
  await log.line(/^Waiting for GET \/held \(req-\w+, \d+ms\)$/)
  await log.line(/^Waiting for GET {2}\(held by a hook, \d+ms\)$/)
  passed.resolve()
  held.release()
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  t.match(await report, { completed: 2, cut: { length: 0 }, exitCode: 0 })
})

t.test('after a cut, a handler may write and end its response, and gets its events', async t => {
  const { app } = await createApp(t, { writeTimeout: 50 })
  const called: string[] = []
  const go = new Deferred()
  app.get('/', async (_request, { raw }) => {
    await go.promise
    raw.writeHead(200).setHeader('a', 'b')
    raw.write('late', () => { called.push('written') })
    raw.write('late')
    raw.end('late', () => { called.push('ended') })
    raw.end()
  })
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/FST_ERR_GRACEFUL_WRITE_TIMEOUT/)
  go.resolve()
  await eventually(() => called.length === 2)
  t.strictSame(called, ['written', 'ended'])
  await eventually(() => app.inFlightRequests === 0)
  t.notMatch(client.text, 'late')
})

t.test('then() of a tracked thenable works without callbacks', async t => {
  const { app } = await createApp(t)
  const thenable = (settle: (fulfil: (value: unknown) => unknown, reject: (reason: unknown) => unknown) => unknown): PromiseLike<unknown> =>
    ({ then: (fulfil: never, reject: never) => settle(fulfil, reject) as never }) // oxlint-disable-line unicorn/no-thenable
  const fulfilled = app.gracefulShutdown.track(thenable(fulfil => fulfil(1)), 'fulfilled')
  const call = ({ then }: PromiseLike<unknown>): unknown => Reflect.apply(then, undefined, [])
  t.equal(call(fulfilled), 1)
  const rejected = app.gracefulShutdown.track(thenable((_fulfil, reject) => reject('no')), 'rejected')
  t.throws(() => { call(rejected) })
  t.strictSame(app.gracefulShutdown.inFlight(), [])
})

t.test('an upgrade whose reply the handler hijacks does not count, and no response is written into it', async t => {
  const { app } = await createApp(t)
  app.get('/ws', (request, reply) => {
    reply.hijack()
    request.raw.socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n')
  })
  const port = await listen(app)
  app.server.on('upgrade', (request, socket) => {
    const response = new ServerResponse(request)
    response.assignSocket(socket as Socket)
    app.routing(request, response)
  })
  const client = new RawClient(port).get('/ws', ['Connection: Upgrade', 'Upgrade: other'])
  await client.until(/101 Switching/)
  t.equal(app.inFlightRequests, 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  await client.closed
  t.notMatch(client.text, '503')
})

for (const when of ['its handler', 'a hook ahead of it']) {
  t.test(`HTTP/2: a request whose handler returns its reply is over, also if the client disconnects during ${when}`, async t => {
    const { app } = await createApp(t, {}, { http2: true } as object)
    const entered = new Deferred()
    const go = new Deferred()
    const pass = async (): Promise<void> => {
      entered.resolve()
      await go.promise
    }
    if (when !== 'its handler') app.addHook('onRequest', pass)
    app.get('/', async (_request, reply) => {
      if (when === 'its handler') await pass()
      return reply.send('x')
    })
    const session = connect(`http://127.0.0.1:${await listen(app)}`)
    t.teardown(() => { session.destroy() })
    const stream = session.request({ ':path': '/' }).on('error', () => {})
    await entered.promise
    const closed = once(stream, 'close')
    stream.close(constants.NGHTTP2_CANCEL)
    await closed
    await sleep(50)
    go.resolve()
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('a late request whose writeHead is replaced by one that throws is refused when connections are closed', async t => {
  const app = Fastify() as FastifyInstance
  t.teardown(async () => { await app.close() })
  app.addHook('onRequest', async ({ url }, { raw }) => {
    if (url !== '/late') return
    raw.writeHead = () => { throw new Error('replaced') }
    await sleep(5_000, undefined, { ref: false })
  })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const late = new RawClient(port).get('/late')
  await eventually(() => late.socket.bytesWritten > 0)
  held.release()
  await Promise.all([busy.closed, late.closed])
  t.match(late.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  t.match(await report, { completed: 1, refused: 1, exitCode: 0 })
})

for (const answer of ['accepts', 'rejects']) {
  t.test(`a WebSocket handshake is in flight until a hook ${answer} it`, async t => {
    const { app } = await createApp(t)
    const entered = new Deferred()
    const go = new Deferred()
    await app.register(websocket)
    app.get('/ws', {
      websocket: true,
      preValidation: async (_request, reply) => {
        entered.resolve()
        await go.promise
        if (answer === 'rejects') await reply.code(401).send('no')
      }
    }, socket => { socket.send('hello') })
    const client = new RawClient(await listen(app)).get('/ws', HANDSHAKE)
    await entered.promise
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    t.equal(app.gracefulShutdown.phase, 'draining')
    go.resolve()
    // @fastify/websocket accepts no more handshakes once its preClose hook has run.
    await client.until(answer === 'accepts' ? /^HTTP\/1\.1 503 Service Unavailable/ : /401 Unauthorized[^]*no/)
    if (answer === 'rejects') client.socket.end()
    t.match(await report, { cut: { length: 0 }, refused: 0, exitCode: 0 })
  })
}

t.test('a WebSocket handshake that a hook holds for too long is cut', async t => {
  const { app } = await createApp(t, { drainTimeout: 300 })
  const entered = new Deferred()
  await app.register(websocket)
  app.get('/ws', {
    websocket: true,
    preValidation: async () => {
      entered.resolve()
      await sleep(5_000, undefined, { ref: false })
    }
  }, () => {})
  const client = new RawClient(await listen(app)).get('/ws', HANDSHAKE)
  await entered.promise
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /503 Service Unavailable[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/)
  t.match(report, { cut: [{ route: '/ws' }], exitCode: 1 })
})

/** Each rejects once the response has been destroyed. */
const REQUESTS = {
  http: async (app: FastifyInstance) => { await fetch(`http://127.0.0.1:${await listen(app)}/`) },
  http2: async (app: FastifyInstance) => {
    const session = connect(`http://127.0.0.1:${await listen(app)}`)
    try {
      await once(session.request().resume(), 'end')
    } finally {
      session.destroy()
    }
  },
  inject: async (app: FastifyInstance) => { await app.inject('/') }
}

for (const [protocol, request] of Object.entries(REQUESTS)) {
  t.test(`${protocol}: a request is over when Fastify destroys the response because its last error handler failed`, async t => {
    const { app } = await createApp(t, {}, { http2: protocol === 'http2' } as object)
    app.addHook('onSend', async (_request, { raw }, payload) => {
      raw.writeHead = () => { throw Object.assign(new Error('on purpose'), { code: 'ERR_HTTP_HEADERS_SENT' }) }
      return payload
    })
    app.get('/', async () => 'ok')
    await t.rejects(request(app))
    await eventually(() => app.inFlightRequests === 0)
  })
}
