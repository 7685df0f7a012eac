// The probes and rejections together with the hooks and plugins of an application, registered before and after this plugin.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { GracefulOptions, ShutdownReport } from '../index.ts'
import { connect as connectHttp2 } from 'node:http2'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import rateLimit from '@fastify/rate-limit'
import session from '@fastify/session'
import swagger from '@fastify/swagger'
import underPressure from '@fastify/under-pressure'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createApp, createAppBehind, Deferred, eventually, listen, phaseBegins, RawClient } from './helpers.ts'

const PROBES = ['/health', '/ready']
const GUARDED = { health: { guarded: true }, ready: { guarded: true } } satisfies GracefulOptions

/** Answers 401 to every request. */
function addAuth (app: FastifyInstance): void {
  app.addHook('onRequest', async (_request, reply) => await reply.code(401).send({ error: 'who are you?' }))
}

async function statuses (app: FastifyInstance, urls = PROBES, method: 'GET' | 'HEAD' = 'GET'): Promise<number[]> {
  const codes: number[] = []
  for (const url of urls) codes.push((await app.inject({ method, url })).statusCode)
  return codes
}

/** Starts a drain that lasts until the returned function is called. */
async function drain (app: FastifyInstance): Promise<() => Promise<ShutdownReport>> {
  const work = new Deferred()
  void app.gracefulShutdown.track(work.promise)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  return async () => {
    work.resolve()
    return await report
  }
}

t.test('a route that an onRoute hook adds beside a probe has the answer of its own handler', async t => {
  const app = await createAppBehind(t, instance => {
    instance.addHook('onRoute', function (route) {
      if (route.method === 'GET' && PROBES.includes(route.url)) this.route({ ...route, url: `/v1${route.url}` })
      if (route.method === 'GET' && route.url === '/ready') this.get('/own', async () => 'own')
    })
  })
  t.strictSame(await statuses(app, [...PROBES, '/v1/health', '/v1/ready']), [200, 200, 200, 200])
  t.equal((await app.inject('/v1/health')).body, '{"status":"healthy"}')
  t.equal((await app.inject('/own')).body, 'own')
})

t.test('no hook that is registered later answers a probe, while running and while draining', async t => {
  const hooks: Record<string, (app: FastifyInstance) => void> = {
    'an async hook': addAuth,
    'a hook with a callback': app => { app.addHook('onRequest', (_request, reply) => { reply.code(429).send('slow down') }) },
    'a hook that throws': app => { app.addHook('onRequest', async () => { throw new Error('no session') }) },
    'a hook of another step': app => { app.addHook('preHandler', async (_request, reply) => await reply.code(403).send('no')) },
    'a hook of a plugin': app => { app.register(Object.assign(async (context: FastifyInstance) => { addAuth(context) }, { [Symbol.for('skip-override')]: true })) }
  }
  for (const [name, addHook] of Object.entries(hooks)) {
    const { app } = await createApp(t)
    addHook(app)
    app.get('/', async () => 'secret')
    for (const method of ['GET', 'HEAD'] as const) t.strictSame(await statuses(app, PROBES, method), [200, 200], name)
    t.ok((await app.inject('/')).statusCode >= 400, name)
    t.equal(app.inFlightRequests, 0)
    const end = await drain(app)
    t.equal((await app.inject('/health')).body, '{"status":"shutting_down"}', name)
    t.equal((await app.inject('/ready')).body, '{"ready":false,"reason":"shutting_down"}', name)
    t.match(await end(), { refused: 0, cut: { length: 0 }, exitCode: 0 })
  }
})

t.test('a hook that is registered later without awaiting the plugin does not answer a probe either', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  app.register(gracefulPlugin)
  addAuth(app)
  app.get('/', async () => 'secret')
  t.strictSame(await statuses(app, [...PROBES, '/']), [200, 200, 401])
})

t.test('HTTP/2: probes are answered before hooks that are registered later', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  addAuth(app)
  const client = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  t.teardown(() => { client.destroy() })
  for (const path of PROBES) {
    const status = await new Promise(resolve => {
      client.request({ ':path': path }).on('response', headers => { resolve(headers[':status']) }).resume()
    })
    t.equal(status, 200)
  }
  await eventually(() => app.inFlightRequests === 0)
})

t.test('of the hooks that are registered later, only onResponse hooks run for probes', async t => {
  const { app, log } = await createApp(t)
  const seen: string[] = []
  app.addHook('onSend', async ({ url }) => { seen.push(`onSend ${url}`) })
  app.addHook('onResponse', async ({ url }) => { seen.push(`onResponse ${url}`) })
  await app.inject('/health')
  t.strictSame(seen, ['onResponse /health'])
  t.strictSame(log.messages(), ['incoming request', 'request completed'])
})

t.test('a hook that is registered later finds later decorators on the request and reply of a probe', async t => {
  const { app } = await createApp(t)
  app.decorateRequest('visits', 0)
  app.decorateReply('visits', 0)
  const seen: unknown[] = []
  app.addHook('onResponse', async (request, reply) => {
    seen.push((request as { visits?: number }).visits, (reply as { visits?: number }).visits)
  })
  await app.inject('/health')
  t.strictSame(seen, [0, 0])
})

t.test('an onRegister hook may have decorated the context of the probes', async t => {
  const app = await createAppBehind(t, instance => {
    instance.addHook('onRegister', context => { if (!context.hasRequestDecorator('tenant')) context.decorateRequest('tenant', null) })
  })
  app.decorateRequest('tenant', null)
  app.decorateReply('now', () => 1)
  t.strictSame(await statuses(app, PROBES), [200, 200])
})

t.test('an onRegister hook sees the context of the probes with a name', async t => {
  const names: string[] = []
  const app = await createAppBehind(t, instance => { instance.addHook('onRegister', ({ pluginName }) => { names.push(pluginName) }) })
  await app.ready()
  t.strictSame(names, ['fastify-graceful-probes'])
})

t.test('an onSend hook that needs an onRequest hook, both registered later, does not fail a probe', async t => {
  const { app } = await createApp(t)
  app.decorateRequest('start')
  app.addHook('onRequest', async request => { (request as unknown as { start: bigint }).start = process.hrtime.bigint() })
  app.addHook('onSend', async request => { app.log.info(String(process.hrtime.bigint() - (request as unknown as { start: bigint }).start)) })
  t.match(await app.inject('/health'), { statusCode: 200, body: '{"status":"healthy"}' })
})

t.test('the hooks of the application run for a guarded probe, which is still neither rejected nor counted', async t => {
  const { app } = await createApp(t, GUARDED)
  app.addHook('onRequest', async (request, reply) => {
    if (request.headers.authorization === undefined) await reply.code(401).send({ error: 'who are you?' })
  })
  const headers = { authorization: 'yes' }
  for (const method of ['GET', 'HEAD'] as const) t.strictSame(await statuses(app, PROBES, method), [401, 401])
  t.equal((await app.inject({ url: '/ready', headers })).body, '{"ready":true,"in_flight_requests":0}')
  const end = await drain(app)
  t.strictSame(await statuses(app), [401, 401])
  t.equal((await app.inject({ url: '/health', headers })).body, '{"status":"shutting_down"}')
  t.match(await end(), { refused: 0, exitCode: 0 })
})

t.test('one probe may be guarded and the other not', async t => {
  const { app } = await createApp(t, { ready: { guarded: true } })
  addAuth(app)
  t.strictSame(await statuses(app), [200, 401])
})

t.test('the hooks of the application run for a handler that is mounted elsewhere', async t => {
  const { app } = await createApp(t)
  addAuth(app)
  app.get('/own/health', app.gracefulShutdown.healthHandler)
  app.get('/own/ready', app.gracefulShutdown.readyHandler)
  t.strictSame(await statuses(app, [...PROBES, '/own/health', '/own/ready']), [200, 200, 401, 401])
})

t.test('hooks that are registered before the plugin run before the probes', async t => {
  const seen: string[] = []
  const app = await createAppBehind(t, instance => {
    instance.addHook('onRequest', async (request, reply) => {
      seen.push(request.url)
      reply.header('x-first', 'yes')
      if (request.headers['x-block'] !== undefined) await reply.code(401).send('no')
    })
  })
  const { statusCode, headers } = await app.inject('/health')
  t.equal(statusCode, 200)
  t.equal(headers['x-first'], 'yes')
  t.equal((await app.inject({ url: '/ready', headers: { 'x-block': 'yes' } })).statusCode, 401)
  t.strictSame(seen, ['/health', '/ready'])
  t.equal(app.inFlightRequests, 0)
})

t.test('@fastify/rate-limit limits a guarded probe and other routes, but no other probe, wherever it is registered', async t => {
  const hits = async (app: FastifyInstance, url: string) => await statuses(app, [url, url, url])
  const after = Fastify()
  await after.register(gracefulPlugin)
  await after.register(rateLimit, { max: 1 })
  const before = Fastify()
  await before.register(rateLimit, { max: 1 })
  await before.register(gracefulPlugin)
  for (const app of [after, before]) {
    t.teardown(async () => { await app.close() })
    app.get('/', async () => 'limited')
    for (const url of PROBES) t.strictSame(await hits(app, url), [200, 200, 200])
    t.strictSame(await hits(app, '/'), [200, 429, 429])
  }
  const guarded = Fastify()
  t.teardown(async () => { await guarded.close() })
  await guarded.register(rateLimit, { max: 1 })
  await guarded.register(gracefulPlugin, { ready: { guarded: true } })
  t.strictSame(await hits(guarded, '/ready'), [200, 429, 429])
})

t.test('config is passed to the routes of the probes: @fastify/rate-limit does not limit a guarded one', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(rateLimit, { max: 1 })
  const configs: unknown[] = []
  app.addHook('onRoute', ({ url, config }) => { configs.push([url, config]) })
  await app.register(gracefulPlugin, {
    health: { guarded: true, config: { rateLimit: false } }, ready: { config: { own: 1, gracefulShutdown: { writeTimeout: 1 } } }
  })
  t.strictSame(await statuses(app, ['/health', '/health', '/health']), [200, 200, 200])
  const health = ['/health', { rateLimit: false, gracefulShutdown: false }]
  const ready = ['/ready', { own: 1, gracefulShutdown: false }]
  t.strictSame(configs, [health, health, ready, ready], 'for GET and HEAD')
})

t.test('@fastify/session with a broken store does not fail a probe', async t => {
  const { app } = await createApp(t)
  const fail = (...args: unknown[]): void => { (args.at(-1) as (error: Error) => void)(new Error('no store')) }
  await app.register(cookie)
  await app.register(session, { secret: 'x'.repeat(32), cookie: { secure: false }, store: { get: fail, set: fail, destroy: fail } })
  app.get('/', async () => 'served')
  t.strictSame(await statuses(app, [...PROBES, '/']), [200, 200, 500])
})

t.test('@fastify/under-pressure does not answer a probe if it is registered later', async t => {
  const { app } = await createApp(t, { ready: { checks: { pressure: () => !app.isUnderPressure() } } })
  await app.register(underPressure, { maxHeapUsedBytes: 1, exposeStatusRoute: '/status' })
  app.get('/', async () => 'served')
  await app.ready()
  // It first measures after its sample interval.
  await eventually(() => app.isUnderPressure())
  t.equal((await app.inject('/')).statusCode, 503)
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
  t.equal((await app.inject('/ready')).body, '{"ready":false,"reason":"check_failed","checks":["pressure"]}', 'as a check, it makes the instance not ready')
  const end = await drain(app)
  t.equal((await app.inject('/health')).body, '{"status":"shutting_down"}')
  t.match(await end(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('@fastify/under-pressure answers the probes if it is registered before the plugin', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(underPressure, { maxHeapUsedBytes: 1 })
  await app.register(gracefulPlugin)
  await app.ready()
  await eventually(() => app.isUnderPressure())
  t.match((await app.inject('/health')).json(), { code: 'FST_UNDER_PRESSURE' })
})

t.test('@fastify/swagger describes or hides the probes by their schema', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(swagger, { exposeHeadRoutes: true, openapi: {} })
  app.addSchema({ $id: 'alive', type: 'object', properties: { status: { type: 'string', enum: ['healthy'] } } })
  const described = { summary: 'Is it alive?', operationId: 'health', tags: ['ops'], response: { 200: { description: 'yes', $ref: 'alive#' } } }
  await app.register(gracefulPlugin, { health: { schema: described }, ready: { schema: { hide: true } } })
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
  t.strictSame(await statuses(app), [200, 200])
  const { paths = {} } = app.swagger() as { paths?: Record<string, object> }
  t.strictSame(Object.keys(paths), ['/health'])
  t.match(paths, { '/health': { get: { summary: 'Is it alive?', operationId: 'health', tags: ['ops'] }, head: { operationId: 'health-head' } } })
})

t.test('a schema does not change the response', async t => {
  const { app } = await createApp(t, {
    health: { schema: { querystring: { type: 'object', required: ['key'] }, response: { 200: { type: 'object', properties: {} } } } }
  })
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
})

const ORIGIN = { origin: 'https://shop.example' }
const PREFLIGHT = { ...ORIGIN, 'access-control-request-method': 'PUT', 'access-control-request-headers': 'content-type' }

t.test('a browser can read the 503 of a rejected request if @fastify/cors is registered before the plugin', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(cors, { origin: ORIGIN.origin, methods: ['GET', 'PUT'], credentials: true })
  await app.register(gracefulPlugin)
  app.put('/orders', async () => 'stored')
  const port = await listen(app)
  const end = await drain(app)
  const url = `http://127.0.0.1:${port}/orders`
  const preflight = await fetch(url, { method: 'OPTIONS', headers: PREFLIGHT })
  t.equal(preflight.status, 204, 'without which a browser does not send the request')
  t.match(preflight.headers.get('access-control-allow-methods'), /PUT/)
  const refused = await fetch(url, { method: 'PUT', headers: { ...ORIGIN, 'content-type': 'application/json' }, body: '{}' })
  t.equal(refused.status, 503)
  t.equal(refused.headers.get('access-control-allow-origin'), ORIGIN.origin)
  t.equal(refused.headers.get('access-control-allow-credentials'), 'true')
  t.match(await refused.json(), { code: 'FST_ERR_GRACEFUL_SHUTTING_DOWN' })
  const ready = await fetch(`http://127.0.0.1:${port}/ready`, { headers: ORIGIN })
  t.equal(ready.headers.get('access-control-allow-origin'), ORIGIN.origin, 'a browser can also read a probe')
  t.match(await end(), { refused: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('if @fastify/cors is registered after the plugin, rejections and probes do not have its headers', async t => {
  const { app } = await createApp(t)
  await app.register(cors)
  app.get('/orders', async () => 'orders')
  t.equal((await app.inject({ url: '/orders', headers: ORIGIN })).headers['access-control-allow-origin'], '*')
  t.notOk('access-control-allow-origin' in (await app.inject({ url: '/health', headers: ORIGIN })).headers)
  const end = await drain(app)
  const refused = await app.inject({ url: '/orders', headers: ORIGIN })
  t.equal(refused.statusCode, 503)
  t.notOk('access-control-allow-origin' in refused.headers)
  t.equal((await app.inject({ method: 'OPTIONS', url: '/orders', headers: PREFLIGHT })).statusCode, 503)
  await end()
})

t.test('over one connection, a load balancer can read the probes of a draining instance', async t => {
  const { app } = await createApp(t)
  addAuth(app)
  const client = new RawClient(await listen(app)).get('/health')
  await client.until(/"healthy"/)
  const end = await drain(app)
  client.get('/ready')
  await client.until(/"shutting_down"/)
  t.strictSame(client.text.match(/(?<=HTTP\/1\.1 )\d+/g), ['200', '503'])
  await end()
  await client.closed
})

t.test('a probe that asks for an upgrade is answered, and its connection is closed, beside @fastify/websocket', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  const port = await listen(app)
  for (const path of PROBES) {
    // As Java's HttpClient does.
    const client = new RawClient(port).get(path, ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA'])
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 [^]*connection: close[^]*\}$/i)
  }
})
