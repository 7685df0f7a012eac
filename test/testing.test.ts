// fastify-graceful/testing. test/installed has it with other test runners.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Phase, ShutdownSignal } from '../types/index.ts'
import type { RequestOptions } from '../types/testing.ts'
import { channel } from 'node:diagnostics_channel'
import process from 'node:process'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { testShutdown } from '../lib/testing/index.ts'
import { createCredentials } from './credentials.ts'
import { createApp } from './helpers.ts'

t.test('a request held over SIGTERM is handled before the cleanup, and later ones get what a client would get', async t => {
  const { app, log } = await createApp(t)
  const order: string[] = []
  app.post('/orders', async request => {
    order.push('handler')
    return request.body
  })
  app.registerShutdownCallback(() => { order.push('cleanup') })

  const shutdown = await testShutdown(app)
  const post = { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'tea' }
  const held = await shutdown.hold('/orders?id=1', post)
  t.match(app.gracefulShutdown.inFlight(), [{ method: 'POST', url: '/orders' }])
  shutdown.signal('SIGTERM')
  await shutdown.reached('draining')
  t.match(await shutdown.request('/ready'), { status: 503, body: '{"ready":false,"reason":"shutting_down"}', error: undefined })
  t.match(await shutdown.request('/orders', post), { status: 503, headers: { connection: 'close', 'retry-after': /\d/ } })
  t.strictSame(order, [])
  t.match(await held.release(), { status: 200, body: 'tea', error: undefined })
  t.match(await shutdown.report, { reason: 'SIGTERM', completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
  t.strictSame(order, ['handler', 'cleanup'])
  t.strictSame(await shutdown.request('/orders'), { status: undefined, headers: {}, body: '', error: 'ECONNREFUSED' })
  t.strictSame((await (await shutdown.hold('/orders')).release()).error, 'ECONNREFUSED')
  t.strictSame((await (await shutdown.open('/orders')).response).error, 'ECONNREFUSED')
  t.equal(log.messages(/^SIGTERM received, shutting down$/).length, 1)
})

t.test('an application that closes its database before its handlers have ended is found', async t => {
  const { app } = await createApp(t)
  let isOpen = true
  app.get('/orders', async () => {
    if (!isOpen) throw new Error('the database is closed')
    return []
  })
  app.gracefulShutdown.signal.addEventListener('abort', () => { isOpen = false })
  const shutdown = await testShutdown(app)
  const held = await shutdown.hold('/orders')
  shutdown.signal('SIGTERM')
  t.match(await held.release(), { status: 500, body: /the database is closed/ })
})

t.test('a signal leaves the process as it was', async t => {
  const { app } = await createApp(t)
  const state = () => [
    app.server.rawListeners('request'), channel('fastify-graceful:phase').hasSubscribers, process.exitCode,
    ...['SIGTERM', 'SIGINT', 'uncaughtException', 'exit'].map(event => process.listeners(event as NodeJS.Signals))
  ]
  const before = state()
  const shutdown = await testShutdown(app)
  await shutdown.hold('/')
  shutdown.signal('SIGTERM')
  shutdown.signal('SIGTERM')
  await shutdown.close()
  t.equal((await shutdown.report).exitCode, 0)
  t.strictSame(state(), before)
})

t.test('an event stream is open until the shutdown ends it', async t => {
  const { app } = await createApp(t)
  app.get('/events', (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: hello\n\n')
    app.gracefulShutdown.signal.addEventListener('abort', () => { reply.raw.end('data: bye\n\n') })
  })
  const shutdown = await testShutdown(app)
  const events = await shutdown.open('/events')
  shutdown.signal('SIGTERM')
  t.match(await events.response, { status: 200, body: 'data: hello\n\ndata: bye\n\n', error: undefined })
  t.strictSame((await shutdown.report).cut, [])
})

t.test('a client reads a 503 or half a response if its request is cut', async t => {
  const { app } = await createApp(t, { drainTimeout: 100 })
  app.get('/half', (_request, reply) => {
    reply.raw.writeHead(200, { 'content-length': 100 }).write('half')
    reply.hijack()
  })
  const shutdown = await testShutdown(app)
  const half = await shutdown.open('/half')
  const held = await shutdown.hold('/held')
  shutdown.signal('SIGTERM')
  t.match(await half.response, { status: 200, body: 'half', error: 'ECONNRESET' })
  t.match(await held.response, { status: 503, body: /FST_ERR_GRACEFUL_DRAIN_TIMEOUT/ })
  t.match(await shutdown.report, { cut: [{ url: '/half' }, { url: '/held', route: undefined }], exitCode: 1 })
  await held.release()
})

t.test('a phase is waited for, and in the delay the instance still serves', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 60_000, shutdownDelay: 30_000 })
  app.get('/', async () => 'served')
  const shutdown = await testShutdown(app)
  await shutdown.reached('running')
  const phases = ['closed', 'closing', 'draining', 'delaying'] as const
  const reached: string[] = []
  const all = phases.map(async phase => {
    await shutdown.reached(phase)
    reached.push(phase)
  })
  t.match(await shutdown.request('/'), { status: 200, headers: { connection: 'keep-alive' } })
  shutdown.signal('SIGTERM')
  await shutdown.reached('delaying')
  t.match(await shutdown.request('/'), { status: 200, headers: { connection: 'close' }, body: 'served' })
  t.match(await shutdown.request('/ready'), { status: 503 })
  app.gracefulShutdown.skipDelay()
  await Promise.all(all)
  t.strictSame(reached, phases.toReversed())
  t.equal((await shutdown.report).exitCode, 0)
})

t.test('SIGINT skips the delay, so that the phase does not come', async t => {
  const { app } = await createApp(t, { shutdownDelay: 1_000 })
  const shutdown = await testShutdown(app)
  const skipped = { code: 'FST_ERR_GRACEFUL_PHASE_SKIPPED', message: 'The shutdown was not in the phase "delaying", and is already in the phase "draining"' }
  const early = t.rejects(shutdown.reached('delaying'), skipped)
  shutdown.signal('SIGINT')
  await early
  await t.rejects(shutdown.reached('delaying'), { code: skipped.code })
  t.match(await shutdown.report, { reason: 'SIGINT' })
})

t.test('close() ends a test that has failed half way, and one that sent no signal', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 60_000, shutdownDelay: 30_000 })
  const shutdown = await testShutdown(app)
  const held = await shutdown.hold('/missing')
  shutdown.signal('SIGTERM')
  await shutdown.close()
  t.match(await held.response, { status: 404 })
  t.match(await shutdown.report, { reason: 'SIGTERM', cut: { length: 0 } })
  const other = await testShutdown((await createApp(t)).app)
  await other.close()
  t.match(await other.report, { reason: 'close' })
})

t.test('two instances are tested side by side', async t => {
  const { app } = await createApp(t)
  const one = await testShutdown(app)
  const other = await testShutdown((await createApp(t)).app)
  other.signal('SIGTERM')
  await other.reached('closed')
  t.equal(app.gracefulShutdown.phase, 'running')
  let isClosed = false
  const closed = one.reached('closed').then(() => { isClosed = true })
  t.match(await one.request('/ready'), { status: 200 })
  t.notOk(isClosed)
  one.signal('SIGTERM')
  await one.reached('draining')
  await closed
})

t.test('an instance that listens is tested where it listens', async t => {
  const { app } = await createApp(t)
  await app.listen({ port: 0, host: '0.0.0.0' })
  const shutdown = await testShutdown(app)
  t.match(await shutdown.request('/ready'), { status: 200 })
})

for (const http2 of [false, true]) {
  t.test(`an instance with TLS${http2 ? ' and HTTP/2' : ''} is tested over HTTP/1.1`, async t => {
    const { key, cert } = await createCredentials()
    const { app } = await createApp(t, {}, { http2, https: { key, cert, allowHTTP1: true } } as object)
    app.get('/', async request => request.protocol)
    const shutdown = await testShutdown(app)
    const held = await shutdown.hold('/')
    shutdown.signal('SIGTERM')
    await shutdown.reached('draining')
    t.match(await held.release(), { status: 200, body: 'https' })
    t.match(await shutdown.report, { completed: 1, exitCode: 0 })
  })
}

t.test('arguments that are not allowed are rejected', async t => {
  const invalid = (name: string, allowed: string) => ({ code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: new RegExp(`^Invalid ${name}: got .*, allowed is .*${allowed}`) })
  const { app } = await createApp(t, { signals: ['SIGTERM', 'uncaughtException'] })
  const shutdown = await testShutdown(app)
  for (const name of ['SIGINT', 'uncaughtException', undefined]) {
    t.throws(() => { shutdown.signal(name as ShutdownSignal) }, invalid('signal of a test', 'what the instance listens to: SIGTERM$'))
  }
  await t.rejects(shutdown.reached('drained' as Phase), invalid('phase of a test', 'running, delaying, draining, closing, closed'))
  for (const path of ['ready', undefined]) {
    for (const method of ['request', 'hold', 'open'] as const) {
      await t.rejects(async () => { await shutdown[method](path as string) }, invalid('path of a test request', 'a string with a leading slash'))
    }
  }
  const typo = { code: 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', message: 'Unknown option of a test request "header" (did you mean "headers"?), known are method, headers, body' }
  await t.rejects(shutdown.request('/', { header: {} } as RequestOptions), typo)
  await t.rejects(async () => { await shutdown.request('/', { body: { a: 1 } as unknown as string }) }, invalid('body of a test request', 'a string or a Uint8Array'))
  await t.rejects(shutdown.request('/', { method: 'not one' }), { code: 'ERR_INVALID_HTTP_TOKEN' })

  const deaf = await testShutdown((await createApp(t, { signals: false })).app)
  t.throws(() => { deaf.signal('SIGTERM') }, invalid('signal of a test', 'no signal'))
  await deaf.close()

  const closed = (await createApp(t)).app
  await closed.close()
  const overHttp2 = (await createApp(t, {}, { http2: true } as object)).app
  const withoutPlugin = Fastify()
  t.teardown(async () => { await withoutPlugin.close() })
  for (const [given, allowed] of [
    [undefined, 'a Fastify instance with fastify-graceful'],
    [{}, 'a Fastify instance with fastify-graceful'],
    [withoutPlugin, 'a Fastify instance with fastify-graceful'],
    [closed, 'an instance that has not begun to shut down'],
    [overHttp2, 'an instance that serves HTTP/1.1 over TCP']
  ] as const) {
    await t.rejects(testShutdown(given as FastifyInstance), invalid('argument of testShutdown\\(\\)', allowed))
  }
})

t.test('close() does not wait for open responses', async t => {
  const { app } = await createApp(t, { drainTimeout: 20_000 })
  app.get('/events', (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200).write('first')
  })
  const shutdown = await testShutdown(app)
  const { response } = await shutdown.open('/events')
  await shutdown.close()
  t.match(await response, { status: 200, body: 'first', error: 'ECONNRESET' })
  const { exitCode, phases } = await shutdown.report
  t.equal(exitCode, 0)
  t.ok(phases.draining < 10_000, `draining took ${phases.draining}ms`)
})

t.test('a request of any method may have a body', async t => {
  const { app } = await createApp(t)
  app.route({ method: ['POST', 'DELETE'], url: '/', handler: async ({ body }) => body })
  const shutdown = await testShutdown(app)
  t.teardown(async () => { await shutdown.close() })
  for (const method of ['POST', 'DELETE']) {
    for (const more of [{}, { 'transfer-encoding': 'chunked' }]) {
      const headers = { 'content-type': 'application/json', ...more }
      t.match(await shutdown.request('/', { method, headers, body: '{"a":"ü"}' }), { status: 200, body: '{"a":"ü"}' }, method)
    }
  }
})

t.test('an upgrade ends with its status', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  app.register(async instance => { instance.get('/ws', { websocket: true }, () => {}) })
  const shutdown = await testShutdown(app)
  const headers = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==' }
  t.match(await shutdown.request('/ws', { headers }), { status: 101, body: '', error: undefined })
  const opened = await shutdown.open('/ws', { headers })
  t.match(await opened.response, { status: 101 })
  await shutdown.close()
})

t.test('the plugin may still be loading', async t => {
  const app = Fastify()
  void app.register(gracefulPlugin)
  const shutdown = await testShutdown(app as FastifyInstance)
  t.match(await shutdown.request('/ready'), { status: 200 })
  await shutdown.close()
})

t.test('a second signal() has no effect', async t => {
  const { app } = await createApp(t, { shutdownDelay: 300 })
  const shutdown = await testShutdown(app)
  shutdown.signal('SIGTERM')
  shutdown.signal('SIGINT')
  const { reason, phases } = await shutdown.report
  t.equal(reason, 'SIGTERM')
  t.ok(phases.delaying >= 290, 'SIGINT does not end the delay')
})

t.test('a request may have a body and an Expect header', async t => {
  const { app } = await createApp(t)
  app.post('/', async ({ body }) => body)
  const shutdown = await testShutdown(app)
  const headers = { expect: '100-continue', 'content-type': 'text/plain' }
  t.match(await shutdown.request('/', { method: 'POST', headers, body: 'abc' }), { status: 200, body: 'abc' })
  await shutdown.close()
})
