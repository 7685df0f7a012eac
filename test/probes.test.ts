import t from 'tap'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { testShutdown } from '../lib/testing/index.ts'
import { createApp, Deferred, heldRoute, listen, RawClient } from './helpers.ts'

const json = 'application/json; charset=utf-8'

t.test('answers healthy and ready while running', async t => {
  const { app } = await createApp(t)
  const health = await app.inject('/health')
  t.equal(health.statusCode, 200)
  t.equal(health.body, '{"status":"healthy"}')
  t.equal(health.headers['content-type'], json)
  t.equal(health.headers['cache-control'], 'no-store')
  const ready = await app.inject('/ready')
  t.equal(ready.statusCode, 200)
  t.equal(ready.body, '{"ready":true,"in_flight_requests":0}')
  t.equal(ready.headers['content-type'], json)
})

t.test('shows the number of requests in flight, without probes', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const answers = [app.inject('/held'), app.inject('/held')]
  await held.entered
  t.equal((await app.inject('/ready')).body, '{"ready":true,"in_flight_requests":2}')
  held.release()
  await Promise.all(answers)
  t.equal((await app.inject('/ready')).body, '{"ready":true,"in_flight_requests":0}')
})

t.test('answers 503 to both while shutting down', async t => {
  const shutdown = await testShutdown((await createApp(t)).app)
  const held = await shutdown.hold('/')
  shutdown.signal('SIGTERM')
  t.match(await shutdown.request('/health'), { status: 503, body: '{"status":"shutting_down"}' })
  const ready = await shutdown.request('/ready')
  t.match(ready, { status: 503, body: '{"ready":false,"reason":"shutting_down"}' })
  t.notOk('retry-after' in ready.headers, 'a probe is not a rejected request')
  await held.release()
  t.match(await shutdown.report, { completed: 1, refused: 0 })
})

t.test('answers HEAD with the same headers and no body', async t => {
  for (const exposeHeadRoutes of [true, false]) {
    const { app } = await createApp(t, {}, { exposeHeadRoutes })
    for (const url of ['/health', '/ready']) {
      const head = await app.inject({ method: 'HEAD', url })
      const get = await app.inject(url)
      t.equal(head.statusCode, 200)
      t.equal(head.body, '')
      t.equal(head.headers['content-length'], get.headers['content-length'])
      t.equal(head.headers['content-type'], json)
    }
    const port = await listen(app)
    const client = new RawClient(port).send('HEAD /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK\r\n/)
    t.ok(client.text.endsWith('\r\n\r\n'), 'has no body on the wire')
  }
})

t.test('answers HEAD with 503 while shutting down', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const answer = app.inject('/held')
  await held.entered
  void app.close()
  for (const url of ['/health', '/ready']) t.equal((await app.inject({ method: 'HEAD', url })).statusCode, 503)
  held.release()
  await answer
})

t.test('duringShutdown: 200 keeps the liveness probe at 200, with the body of a shutdown', async t => {
  for (const guarded of [true, false]) {
    const { app } = await createApp(t, { health: { duringShutdown: 200, guarded } })
    app.get('/own/health', app.gracefulShutdown.healthHandler)
    const held = heldRoute(app)
    t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
    const answer = app.inject('/held')
    await held.entered
    const report = app.gracefulShutdown.shutdown()
    for (const url of ['/health', '/own/health']) {
      const { statusCode, body } = await app.inject(url)
      t.equal(statusCode, 200)
      t.equal(body, '{"status":"shutting_down"}')
    }
    t.equal((await app.inject({ method: 'HEAD', url: '/health' })).statusCode, 200)
    t.equal((await app.inject('/ready')).statusCode, 503)
    held.release()
    await Promise.all([answer, report])
  }
})

t.test('setReady(false) takes the instance out of rotation and continues to serve', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  app.gracefulShutdown.setReady(false)
  const ready = await app.inject('/ready')
  t.equal(ready.statusCode, 503)
  t.equal(ready.body, '{"ready":false,"reason":"not_ready"}')
  t.equal((await app.inject('/health')).statusCode, 200)
  t.equal((await app.inject('/')).body, 'served')
  t.equal(app.gracefulShutdown.phase, 'running')
  app.gracefulShutdown.setReady(true)
  t.equal((await app.inject('/ready')).body, '{"ready":true,"in_flight_requests":0}')
  t.throws(() => { app.gracefulShutdown.setReady('false' as unknown as boolean) },
    { code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: /setReady\(\): got 'false' \(string\), allowed is true or false/ })
})

t.test('serves the probes on other paths, or not at all', async t => {
  const { app } = await createApp(t, { health: '/livez', ready: { path: '/readyz' } })
  t.equal((await app.inject('/livez')).statusCode, 200)
  t.equal((await app.inject('/readyz')).statusCode, 200)
  t.equal((await app.inject('/health')).statusCode, 404)
  const { app: bare } = await createApp(t, { health: false, ready: false })
  for (const url of ['/health', '/ready']) t.equal((await bare.inject(url)).statusCode, 404)
  t.equal((await bare.gracefulShutdown.shutdown()).exitCode, 0)
  const { app: elsewhere } = await createApp(t, { health: false, ready: false })
  elsewhere.get('/own/health', elsewhere.gracefulShutdown.healthHandler)
  t.equal((await elsewhere.inject('/own/health')).body, '{"status":"healthy"}')
})

t.test('a failed check makes its probe answer 503 and names it', async t => {
  let fail = true
  const hung = new Deferred()
  const { app } = await createApp(t, {
    health: { checks: { fine: () => true, quiet: () => undefined, loop: () => !fail } },
    ready: {
      checkTimeout: 20,
      checks: {
        says: async () => !fail,
        throws: () => { if (fail) throw new Error('no') },
        rejects: async () => { if (fail) throw new Error('no') },
        hangs: async () => { await hung.promise },
        fine: async () => {}
      }
    }
  })
  const health = await app.inject('/health')
  t.equal(health.statusCode, 503)
  t.equal(health.body, '{"status":"unhealthy","checks":["loop"]}')
  const ready = await app.inject('/ready')
  t.equal(ready.statusCode, 503)
  t.equal(ready.body, '{"ready":false,"reason":"check_failed","checks":["says","throws","rejects","hangs"]}')
  fail = false
  hung.resolve()
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
  t.equal((await app.inject('/ready')).body, '{"ready":true,"in_flight_requests":0}')
})

t.test('a separate log level keeps a probe out of the log', async t => {
  const { app, log } = await createApp(t, { health: { logLevel: 'silent' } })
  await app.inject('/health')
  t.strictSame(log.messages(), [])
  await app.inject('/ready')
  t.strictSame(log.messages(), ['incoming request', 'request completed'])
})

t.test('the handlers work on another path of the same instance, neither rejected nor counted', async t => {
  const { app } = await createApp(t)
  const { healthHandler, readyHandler } = app.gracefulShutdown
  app.get('/internal/health', healthHandler)
  app.get('/internal/ready', { config: { gracefulShutdown: {} } }, readyHandler)
  const held = heldRoute(app)
  t.equal((await app.inject('/internal/ready')).body, '{"ready":true,"in_flight_requests":0}')
  const answer = app.inject('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  t.equal((await app.inject('/internal/health')).body, '{"status":"shutting_down"}')
  t.equal((await app.inject('/internal/ready')).body, '{"ready":false,"reason":"shutting_down"}')
  held.release()
  await answer
  t.equal((await report).refused, 0)
})

t.test('HEAD on a probe and on a rejected request is answered if Node rejects bodies of such responses', async t => {
  const { app } = await createApp(t, {}, { http: { rejectNonStandardBodyWrites: true } } as object)
  const held = heldRoute(app)
  const port = await listen(app)
  const send = async (path: string): Promise<string> => {
    const client = new RawClient(port).send(`HEAD ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
    await client.closed
    return client.text
  }
  t.match(await send('/health'), /^HTTP\/1\.1 200 /)
  const client = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  t.match(await send('/held'), /^HTTP\/1\.1 503 /)
  held.release()
  await client.closed
  t.match(await report, { refused: 1, exitCode: 0 })
})

t.test('the handlers work on another instance', async t => {
  for (const options of [{}, { health: false, ready: false }] as const) {
    const { app } = await createApp(t, options)
    const admin = Fastify()
    t.teardown(async () => { await admin.close() })
    admin.get('/ready', app.gracefulShutdown.readyHandler)
    admin.get('/health', app.gracefulShutdown.healthHandler)
    t.equal((await admin.inject('/ready')).statusCode, 200)
    await app.close()
    t.equal((await admin.inject('/ready')).body, '{"ready":false,"reason":"shutting_down"}')
    const health = await admin.inject('/health')
    t.equal(health.statusCode, 503)
    t.equal(health.body, '{"status":"shutting_down"}')
  }
})

t.test('a serializer of the user does not change the body of a probe', async t => {
  const { app } = await createApp(t)
  app.setReplySerializer(() => 'mine')
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
})

t.test('a plugin registered before this one may wrap the handlers of all routes', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  app.addHook('onRoute', route => {
    const { handler } = route
    route.handler = function (request, reply) { return handler.call(this, request, reply) }
  })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const probe = new RawClient(port).get('/ready')
  await probe.closed
  t.match(probe.text, '{"ready":false,"reason":"shutting_down"}')
  held.release()
  await client.closed
  t.match(await report, { refused: 0, exitCode: 0 })
})
