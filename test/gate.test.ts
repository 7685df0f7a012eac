import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { QUIET } from '../lib/times.ts'
import { testShutdown } from '../lib/testing/index.ts'
import {
  createApp, createAppBehind, Deferred, eventually, HANDSHAKE, heldRoute, heldShutdown, listen, NO_REUSE_PORT, phaseBegins,
  RawClient
} from './helpers.ts'

interface Timed {
  start: bigint
}

const refusal = {
  statusCode: 503,
  code: 'FST_ERR_GRACEFUL_SHUTTING_DOWN',
  error: 'Service Unavailable',
  message: 'The service is shutting down'
}

t.test('rejects new requests while draining, with the body of a Fastify error', async t => {
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  app.get('/new', async () => 'never')
  const answer = app.inject('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.gracefulShutdown.phase, 'draining')
  const refused = await app.inject('/new')
  t.equal(refused.statusCode, 503)
  t.strictSame(refused.json(), refusal)
  t.equal(refused.headers['content-type'], 'application/json; charset=utf-8')
  t.equal(refused.headers['retry-after'], '1')
  t.equal(refused.headers['connection'], 'close')
  t.equal((await app.inject('/nowhere')).statusCode, 503, 'a 404 is also replaced')
  t.equal(app.inFlightRequests, 1, 'a rejected request does not count')
  held.release()
  t.equal((await answer).statusCode, 200)
  t.match(await report, { refused: 2, completed: 1, exitCode: 0 })
  t.strictSame(log.lines.filter(({ level }) => level > 30), [], 'a rejection is not an error in the log')
})

t.test('a rejected request reaches no later hook and no handler, and has the headers that earlier hooks have set', async t => {
  const app = await createAppBehind(t, ahead => {
    ahead.addHook('onRequest', async (_request, reply) => { reply.header('x-first', 'yes') })
  })
  const held = heldRoute(app)
  const seen: string[] = []
  // Fails unless the onRequest hook ahead of it has run.
  app.decorateRequest('start')
  app.addHook('onRequest', async request => { (request as Partial<Timed>).start = process.hrtime.bigint() })
  app.addHook('onSend', async (request, reply) => { reply.header('x-time', String(process.hrtime.bigint() - (request as unknown as Timed).start)) })
  app.addHook('preParsing', async request => { seen.push(request.url) })
  app.setErrorHandler(async () => 'mine')
  app.post('/new', async () => 'never')
  const answer = app.inject('/held')
  await held.entered
  void app.close()
  const refused = await app.inject({ method: 'POST', url: '/new', payload: { a: 1 } })
  t.equal(refused.statusCode, 503)
  t.strictSame(refused.json(), refusal)
  t.equal(refused.headers['x-first'], 'yes')
  t.equal(refused.headers['x-time'], undefined)
  t.strictSame(seen, ['/held'])
  held.release()
  t.match((await answer).headers, { 'x-first': 'yes', 'x-time': /^\d+$/ })
})

t.test('serves a route that has opted out and does not count its requests', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const metrics = heldRoute(app, '/metrics', { gracefulShutdown: false })
  const answer = app.inject('/held')
  await held.entered
  const scrape = app.inject('/metrics')
  await metrics.entered
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  metrics.release()
  t.equal((await scrape).statusCode, 200)
  const second = await app.inject('/metrics')
  t.equal(second.statusCode, 200)
  t.equal(second.headers['connection'], 'close')
  held.release()
  await answer
  t.match(await report, { refused: 0, completed: 1 })
})

t.test('an opted-out request does not delay the end of the drain', async t => {
  const { app } = await createApp(t)
  const stream = heldRoute(app, '/stream', { gracefulShutdown: false })
  const client = new RawClient(await listen(app)).get('/stream')
  await stream.entered
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
  await client.closed
  stream.release()
})

t.test('the 503 of an opted-out request has no headers of the answer that its handler prepares', async t => {
  const { app } = await createApp(t)
  const opted = heldRoute(app, '/opted', { gracefulShutdown: false })
  app.addHook('preHandler', async (_request, reply) => { reply.headers({ 'content-encoding': 'gzip', 'etag': '"1"', 'access-control-allow-origin': '*' }) })
  const client = new RawClient(await listen(app)).get('/opted')
  await opted.entered
  await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, / 503 [^]*access-control-allow-origin[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/i)
  t.notMatch(client.text, /content-encoding|etag/i)
  opted.release()
})

t.test('a request that a hook holds on a route that has opted out does not delay the end of the drain', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  const left = new Deferred()
  app.get('/stream', {
    config: { gracefulShutdown: false },
    onRequest: async () => {
      entered.resolve()
      await left.promise
    }
  }, async () => 'served')
  const client = new RawClient(await listen(app)).get('/stream')
  await entered.promise
  t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: { length: 0 }, exitCode: 0 })
  await client.closed
  left.resolve()
})

t.test('serves all requests while delaying, with Connection: close', async t => {
  const { app } = await createApp(t, { shutdownDelay: 100, drainTimeout: 1_000 })
  app.get('/', async () => 'served')
  const shutdown = await testShutdown(app)
  shutdown.signal('SIGTERM')
  t.equal(app.gracefulShutdown.phase, 'delaying')
  t.ok(app.isShuttingDown)
  t.match(await shutdown.request('/'), { status: 200, headers: { connection: 'close' }, body: 'served' })
  t.match(await shutdown.request('/ready'), { status: 503, body: /"reason":"shutting_down"/ })
  const { phases, refused, completed } = await shutdown.report
  t.ok(phases.delaying >= 99, `delayed for ${phases.delaying}ms`)
  t.match({ refused, completed }, { refused: 0, completed: 1 })
})

t.test('an adaptive delay is over when nothing arrives', async t => {
  const { app, log } = await createApp(t, { shutdownDelay: { max: 20_000, quiet: 100 } })
  await listen(app)
  const { phases } = await app.gracefulShutdown.shutdown()
  t.ok(phases.delaying >= 99 && phases.delaying < 10_000, `delayed for ${phases.delaying}ms`)
  t.strictSame(log.messages(/still serving/), ['Not ready any more, still serving until no request has arrived for 100ms, at most 20000ms'])
})

t.test('an adaptive delay goes on while requests arrive, but not for probes and routes that have opted out', async t => {
  const { app } = await createApp(t, { shutdownDelay: { max: 20_000, quiet: 300 } })
  app.get('/', async () => 'served')
  app.get('/metrics', { config: { gracefulShutdown: false } }, async () => 'metrics')
  const port = await listen(app)
  const report = app.gracefulShutdown.shutdown()
  const start = performance.now()
  let last = 0
  while (performance.now() - start < 900) {
    last = performance.now()
    await new RawClient(port).get('/').closed
  }
  t.equal(app.gracefulShutdown.phase, 'delaying', 'three times as long as quiet')
  // These keep arriving, and the delay ends nevertheless.
  while (app.gracefulShutdown.phase === 'delaying') {
    for (const path of ['/health', '/ready', '/metrics']) await new RawClient(port).get(path).closed
  }
  const { refused, phases } = await report
  t.ok(phases.delaying < 10_000, `delayed for ${phases.delaying}ms`)
  t.ok(performance.now() - last >= 299)
  t.equal(refused, 0)
})

t.test('an adaptive delay goes on if a request has arrived while the event loop was blocked', async t => {
  const { app } = await createApp(t, { shutdownDelay: { max: 20_000, quiet: 200 } })
  const clients: RawClient[] = []
  app.get('/', async () => app.gracefulShutdown.phase)
  app.get('/blocking', async () => {
    clients[1]?.get('/')
    const end = performance.now() + 400
    while (performance.now() < end);
    return 'done'
  })
  const port = await listen(app)
  const [blocking, other] = [new RawClient(port), new RawClient(port)]
  clients.push(blocking, other)
  await Promise.all(clients.map(async ({ socket }) => await once(socket, 'connect')))
  const report = app.gracefulShutdown.shutdown()
  blocking.get('/blocking')
  await Promise.all([blocking.closed, other.closed])
  t.match(other.text, /200 OK[^]*delaying$/)
  t.match(await report, { refused: 0, completed: 2 })
})

t.test('an adaptive delay takes at most max, however many requests arrive, and can be skipped', async t => {
  for (const isSkipped of [false, true]) {
    const { app } = await createApp(t, { shutdownDelay: { max: isSkipped ? 20_000 : 300, quiet: 250 } })
    app.get('/', async () => 'served')
    const port = await listen(app)
    const report = app.gracefulShutdown.shutdown()
    while (app.gracefulShutdown.phase === 'delaying') {
      await new RawClient(port).get('/').closed
      if (isSkipped) app.gracefulShutdown.skipDelay()
      // The phase changes in a later turn.
      await new Promise(resolve => { setImmediate(resolve) })
    }
    const { phases } = await report
    t.ok(phases.delaying < 10_000, `delayed for ${phases.delaying}ms`)
    if (!isSkipped) t.ok(phases.delaying >= 299, `delayed for ${phases.delaying}ms`)
  }
})

t.test('skips the delay if the instance does not listen', async t => {
  const { app } = await createApp(t, { shutdownDelay: 4_000 })
  await app.ready()
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.gracefulShutdown.phase, 'draining')
  t.ok((await report).phases.delaying < 2_000)
})

t.test('the delay can be ended, before it begins and while it runs', async t => {
  for (const when of ['before', 'under way']) {
    const { app } = await createApp(t, { shutdownDelay: 4_000 })
    await listen(app)
    if (when === 'before') app.gracefulShutdown.skipDelay()
    const report = app.gracefulShutdown.shutdown()
    t.equal(app.gracefulShutdown.phase, when === 'before' ? 'draining' : 'delaying')
    app.gracefulShutdown.skipDelay()
    const { phases } = await report
    t.ok(phases.delaying < 2_000, `${when}: ${phases.delaying}ms`)
  }
})

t.test('idle pooled connections stay usable while delaying, and after the delay until the drain ends', async t => {
  const { app } = await createApp(t, { shutdownDelay: 200, drainTimeout: 2_000 })
  app.get('/', async () => app.gracefulShutdown.phase)
  const held = heldRoute(app)
  const port = await listen(app)
  const pool = [new RawClient(port).get('/'), new RawClient(port).get('/')] as const
  await Promise.all(pool.map(async client => await client.until(/running/)))
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await pool[0].get('/').until(/delaying/)
  t.match(pool[0].text, /200 OK\r\n(?:.+\r\n)*connection: close[^]*delaying$/i)
  await phaseBegins(app, 'draining')
  await pool[1].get('/').closed
  t.match(pool[1].text, /running[^]*503 Service Unavailable\r\n(?:.+\r\n)*connection: close/i)
  held.release()
  await busy.closed
  t.match(await report, { completed: 2, refused: 1, exitCode: 0 })
})

t.test('a request on a connection that has become idle while draining is not lost while the event loop is blocked', async t => {
  const { app } = await createApp(t)
  const body = new PassThrough()
  app.get('/stream', async () => body)
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  const client = new RawClient(port).get('/stream')
  body.write('first')
  await Promise.all([held.entered, client.until(/first/)])
  const report = app.gracefulShutdown.shutdown()
  body.end('last')
  await client.until(/last\r\n0\r\n\r\n$/)
  // Node's keepAliveTimeout would end the connection before the request is read.
  setImmediate(() => {
    client.get('/')
    const end = performance.now() + 1_500
    while (performance.now() < end);
  })
  await client.closed
  t.equal(client.error, undefined)
  t.match(client.text, /last\r\n0\r\n\r\nHTTP\/1\.1 503 Service Unavailable\r\n(?:.+\r\n)*connection: close/i)
  held.release()
  await busy.closed
  t.match(await report, { completed: 2, refused: 1, exitCode: 0 })
})

t.test('a response in flight says Connection: close', async t => {
  const { client, release, report } = await heldShutdown(t)
  release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close\r\n[^]*\{"held":true\}$/i)
  t.equal((await report).exitCode, 0)
})

t.test('a request on an idle keep-alive connection is rejected with Connection: close', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  app.get('/', async () => 'served')
  const port = await listen(app)
  const idle = new RawClient(port).get('/')
  await idle.until(/served/)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  idle.text = ''
  await idle.get('/').closed
  t.match(idle.text, /^HTTP\/1\.1 503[^]*connection: close[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/i)
  held.release()
  await busy.closed
  t.match(busy.text, /200 OK/)
  t.match(await report, { refused: 1, completed: 1 })
})

t.test('the drain lasts until no request has arrived for a while, if connections are open', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const port = await listen(app)
  const silent = new RawClient(port)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const asked = performance.now()
  const refused = new RawClient(port).get('/')
  await refused.closed
  t.match(refused.text, /^HTTP\/1\.1 503/)
  held.release()
  await busy.closed
  await phaseBegins(app, 'closing')
  // A timer may be a millisecond early.
  const time = performance.now() - asked
  t.ok(time >= QUIET.milliseconds - 1, `${time}ms since a request came in`)
  await silent.closed
  t.match(await report, { completed: 1, refused: 1, exitCode: 0 })
})

t.test('the listener stays open for a while after the last response, if clients connect again after Connection: close', async t => {
  const { app } = await createApp(t, { shutdownDelay: 4_000 })
  const held = heldRoute(app)
  const port = await listen(app)
  const report = app.gracefulShutdown.shutdown()
  const served = new RawClient(port).get('/held')
  await held.entered
  app.gracefulShutdown.skipDelay()
  await phaseBegins(app, 'draining')
  const released = performance.now()
  held.release()
  await served.closed
  t.match(served.text, /200 OK\r\n(?:.+\r\n)*connection: close/i)
  await phaseBegins(app, 'closing')
  // A timer may be a millisecond early.
  const time = performance.now() - released
  t.ok(time >= QUIET.milliseconds - 1, `${time}ms since the response`)
  t.match(await report, { completed: 1, exitCode: 0 })
})

t.test('of a pipeline, only the last response says Connection: close', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  app.get('/second', async () => 'second')
  const client = new RawClient(await listen(app)).get('/held').get('/second')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await client.closed
  const [, first = '', second = ''] = client.text.split('HTTP/1.1 200 OK\r\n')
  t.match(first, '{"held":true}')
  t.notMatch(first, /connection: close/i)
  t.match(second, /connection: close/i)
  t.match(second, 'second')
  t.match(await report, { completed: 2, exitCode: 0 })
})

t.test('a request pipelined behind one in flight is rejected, and both responses arrive', async t => {
  const { port, client, release, report } = await heldShutdown(t)
  client.get('/held')
  const later = new RawClient(port).get('/held')
  await later.closed
  release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK[^]*\{"held":true\}HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  t.match(await report, { completed: 1, refused: 2 })
})

t.test('a large response ahead of a 503 on the same connection is sent completely, however slowly it is read', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred<Socket>()
  const released = new Deferred()
  const size = 16 * 1024 * 1024
  app.get('/big', async request => {
    entered.resolve(request.socket)
    await released.promise
    return Buffer.alloc(size, '.')
  })
  const port = await listen(app)
  const client = new RawClient(port).get('/big')
  const socket = await entered.promise
  const report = app.gracefulShutdown.shutdown()
  client.get('/refused')
  await new RawClient(port).get('/refused').closed
  client.socket.pause()
  released.resolve()
  await eventually(() => socket.writableLength > 0)
  client.socket.resume()
  await client.closed
  t.equal(client.error, undefined)
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n[^]*\.HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN[^]*\}$/)
  t.ok(client.text.length > size)
  t.match(await report, { completed: 1, refused: 2, cut: { length: 0 }, exitCode: 0 })
})

t.test('requests that a hook ahead of the plugin answers keep an adaptive delay going', async t => {
  const app = Fastify() as FastifyInstance
  t.teardown(async () => { await app.close() })
  // As @fastify/cors answers preflights.
  app.addHook('onRequest', async ({ method }, reply) => { if (method === 'OPTIONS') await reply.code(204).send() })
  await app.register(gracefulPlugin, { shutdownDelay: { max: 20_000, quiet: 300 } })
  app.options('/', async () => 'never')
  const port = await listen(app)
  const report = app.gracefulShutdown.shutdown()
  const start = performance.now()
  while (performance.now() - start < 900) {
    const client = new RawClient(port).send('OPTIONS / HTTP/1.1\r\nHost: x\r\n\r\n')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 204 /)
    await sleep(20)
  }
  t.equal(app.gracefulShutdown.phase, 'delaying', 'three times as long as quiet')
  t.match(await report, { exitCode: 0 })
})

for (const plugin of ['closed by its plugin', "left open by a preClose option of the application's own"]) {
  t.test(`with a shared listener, a WebSocket handshake on an open connection is rejected while draining: ${plugin}`, { skip: NO_REUSE_PORT }, async t => {
    const { app } = await createApp(t)
    await app.register(websocket, plugin.startsWith('left') ? { preClose: done => { done() } } : {})
    app.register(async child => { child.get('/ws', { websocket: true }, () => {}) })
    app.get('/', async () => app.gracefulShutdown.phase)
    const held = heldRoute(app)
    await app.listen({ port: 0, host: '127.0.0.1', reusePort: true } as object)
    const { port } = app.server.address() as AddressInfo
    const [busy, http, upgrade] = [new RawClient(port).get('/held'), new RawClient(port).get('/'), new RawClient(port).get('/')]
    await Promise.all([held.entered, http.until(/running/), upgrade.until(/running/)])
    const report = app.gracefulShutdown.shutdown()
    await eventually(() => !app.server.listening)
    http.get('/')
    upgrade.get('/ws', HANDSHAKE)
    await Promise.all([http.until(/draining/), upgrade.closed])
    t.match(upgrade.text, /running[^]*503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
    held.release()
    await busy.closed
    t.match(await report, { refused: 1, cut: { length: 0 }, exitCode: 0 })
  })
}

for (const shutdownDelay of [{ max: 20_000, quiet: 400 }, 400]) {
  const kind = typeof shutdownDelay === 'number' ? 'a fixed' : 'an adaptive'
  t.test(`requests on new connections that arrive while the event loop is blocked, as ${kind} delay would end, are served`, async t => {
    const { app } = await createApp(t, { shutdownDelay, shutdownTimeout: 60_000 })
    app.get('/', async () => app.gracefulShutdown.phase)
    const port = await listen(app)
    // A thread, so that the clients are not blocked.
    const clients = new Worker(`
      const { parentPort, workerData: port } = require('node:worker_threads')
      const { get } = require('node:http')
      parentPort.once('message', () => {
        for (let index = 0; index < 3; index++) {
          get({ port, host: '127.0.0.1', agent: false }, response => {
            response.resume()
            parentPort.postMessage(response.statusCode)
          }).on('error', error => { parentPort.postMessage(error.code) })
        }
      })`, { eval: true, workerData: port })
    const statuses: unknown[] = []
    clients.on('message', status => { statuses.push(status) })
    await once(clients, 'online')
    const report = app.gracefulShutdown.shutdown()
    setTimeout(() => {
      // A worker has no origin.
      clients.postMessage('go') // oxlint-disable-line unicorn/require-post-message-target-origin
      const end = performance.now() + 500
      while (performance.now() < end);
    }, 200)
    await eventually(() => statuses.length === 3)
    t.strictSame(statuses, [200, 200, 200])
    if (typeof shutdownDelay === 'object') t.equal(app.gracefulShutdown.phase, 'delaying')
    app.gracefulShutdown.skipDelay()
    t.match(await report, { completed: 3, refused: 0, exitCode: 0 })
    await clients.terminate()
  })
}
