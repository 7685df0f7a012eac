// What does not end by itself is cut at the drain timeout and named.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Program } from './helpers.ts'
import type { InFlightEntry, ShutdownReport } from '../index.ts'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { SIGNAL_COPY } from '../lib/times.ts'
import { COVERED, createApp, Deferred, eventually, fork, heldRoute, listen, phaseBegins, portOf, RawClient, visit } from './helpers.ts'

const MB = 1024 * 1024

interface Stuck {
  what: string
  /** Sends the request. */
  start: (client: RawClient, service: Program) => Promise<void>
  entry: Partial<InFlightEntry>
  /** What the client can still receive. */
  answer: RegExp
}

const cases: Stuck[] = [{
  what: 'a handler that never answers',
  start: async (client, { log }) => {
    client.get('/stuck?with=query')
    await log.line(/stuck request is in/)
  },
  entry: { method: 'GET', route: '/stuck', url: '/stuck?with=query' },
  answer: /^HTTP\/1\.1 503 Service Unavailable\r\n(?:.+\r\n)*connection: close\r\n[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/i
}, {
  what: 'a client that stops reading',
  start: async client => {
    client.get(`/bytes/${64 * MB}`)
    await client.until(/200 OK/)
    client.socket.pause()
  },
  entry: { method: 'GET', route: '/bytes/:size', url: `/bytes/${64 * MB}` },
  answer: /^HTTP\/1\.1 200 OK/
}, {
  what: 'a body of which half is sent',
  start: async (client, { log }) => {
    client.send('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nhalf')
    await log.line(/incoming request/)
  },
  entry: { method: 'POST', route: '/upload', url: '/upload' },
  answer: /^HTTP\/1\.1 503 Service Unavailable\r\n(?:.+\r\n)*connection: close\r\n[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/i
}]

for (const { what, start, entry, answer } of cases) {
  t.test(`${what} is cut at the drain timeout and named, and cleanup runs`, async t => {
    const service = fork(t, 'service', { ...COVERED, OPTIONS: '{"drainTimeout":300}' })
    const client = new RawClient(await portOf(service))
    await start(client, service)
    service.kill('SIGTERM')
    t.strictSame(await service.exit, { code: 1, signal: null })
    client.socket.resume()
    await client.closed
    t.match(client.text, answer)

    const named = { ...entry, kind: 'request', reqId: 'req-1' }
    const logged = await service.log.line(/^Request cut: The request was still in flight at the end of drainTimeout \(300 ms\)/)
    t.match(logged, { ...named, level: 50 })
    const last = await service.log.line(/^Shutdown complete, with errors/)
    const { level, report } = last as unknown as { level: number, report: ShutdownReport }
    t.equal(level, 50)
    t.match(report, { completed: 0, exitCode: 1 })
    t.match(report.cut, [named])
    t.ok((report.cut[0]?.age ?? 0) >= 299, `${report.cut[0]?.age}ms old`)
    t.match(report.callbacks, [{ name: 'cleanup' }])
    t.ok(service.log.messages().includes('callback runs: SIGTERM'))
    t.ok(report.phases.draining >= 299 && report.phases.draining < 5_000, `drained for ${report.phases.draining}ms`)
  })
}

t.test('requests that are lost because the process exits early are named', async t => {
  const service = fork(t, 'service')
  const port = await portOf(service)
  const clients = [new RawClient(port).get('/stuck'), new RawClient(port).get('/slow?ms=10000')]
  await Promise.all([service.log.line(/stuck request is in/), service.log.line(/slow request is in/)])
  service.kill('SIGTERM')
  await service.log.line(/Waiting for 2 in-flight requests/)
  await sleep(SIGNAL_COPY)
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  const named = service.log.lines.filter(({ code }) => code === 'FST_ERR_GRACEFUL_EXIT')
  t.match(named, [{ level: 50, method: 'GET' }, { level: 50, method: 'GET' }])
  t.strictSame(new Set(named.map(({ route }) => route)), new Set(['/slow', '/stuck']))
  t.match(await service.log.line(/exits before the shutdown is complete/), { level: 50, phase: 'draining', callbacks: ['cleanup'] })
})

t.test('HTTP/2: a client that stops reading is cut at the drain timeout, and does not count as completed', async t => {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, { drainTimeout: 300 })
  app.get('/', async () => Buffer.alloc(MB))
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const stream = session.request({ ':path': '/' })
  await once(stream, 'response')
  const reset = once(stream, 'error')
  const report = await app.gracefulShutdown.shutdown()
  t.match(await reset, [{ message: /NGHTTP2_INTERNAL_ERROR/ }])
  t.match(report, { completed: 0, cut: [{ method: 'GET', route: '/' }], exitCode: 1 })
})

t.test('HTTP/2: a response that sends the body of its request back is reset with an error if it is cut while the body arrives', async t => {
  const { app } = await createApp(t, { drainTimeout: 300 }, { http2: true } as object)
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => { done(null, payload) })
  app.post('/', async ({ body }) => body)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`).on('error', () => {})
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'application/octet-stream' }).resume()
  stream.write('part of a body')
  await once(stream, 'response')
  const reset = once(stream, 'error')
  const report = await app.gracefulShutdown.shutdown()
  t.match(await reset, [{ message: /NGHTTP2_INTERNAL_ERROR/ }])
  t.match(report, { completed: 0, cut: [{ method: 'POST', route: '/' }], exitCode: 1 })
})

t.test('a client that was cut and has not read its 503 is closed at the drain timeout and named once', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 300, drainTimeout: 50 })
  const held = heldRoute(app)
  // Sends more than a socket buffers, ahead of the response.
  app.addHook('onRequest', async request => { request.raw.socket.write(Buffer.alloc(32 * MB)) })
  const { client, gone } = await visit(app, await listen(app))
  client.socket.pause()
  client.get('/held')
  await log.line(/^Request cut/)
  t.notOk(gone())
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'closing')
  // At once, before connections with a moment to be read to their end are closed.
  for (let turn = 0; turn < 10 && !gone(); turn++) await new Promise(resolve => { setImmediate(resolve) })
  t.ok(gone())
  t.match(await report, { cut: [{ route: '/held' }], completed: 0, exitCode: 1 })
  t.equal((await report).cut.length, 1)
  t.equal(log.messages(/^Request cut/).length, 1)
  held.release()
  client.socket.destroy()
})

t.test('background work that ends after the drain timeout, while closing, is in the report', async t => {
  const { app } = await createApp(t, { drainTimeout: 50 })
  const released = new Deferred()
  void app.gracefulShutdown.track(released.promise, 'reindex')
  app.addHook('onClose', async () => { released.resolve() })
  await listen(app)
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ kind: 'task', name: 'reindex' }], exitCode: 1 })
})

t.test('of a pipeline that is cut, each request is answered, and only the last response says Connection: close', async t => {
  const { app } = await createApp(t, { drainTimeout: 50 })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held').get('/held').get('/held')
  await eventually(() => app.inFlightRequests === 3)
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ route: '/held' }, { route: '/held' }, { route: '/held' }], exitCode: 1 })
  await client.closed
  const answers = client.text.split('HTTP/1.1 503').slice(1)
  t.match(answers, [/FST_ERR_GRACEFUL_DRAIN_TIMEOUT/, /FST_ERR_GRACEFUL_DRAIN_TIMEOUT/, /FST_ERR_GRACEFUL_DRAIN_TIMEOUT/])
  t.strictSame(answers.map(answer => /^connection: close/im.test(answer)), [false, false, true])
  held.release()
})

t.test('of thousands of requests that are cut, 1,000 have a log line of their own, and the report has all of them', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 100 })
  app.get('/never', async () => { await new Promise(() => {}) })
  const answers = Array.from({ length: 1_001 }, async () => await app.inject('/never'))
  await eventually(() => app.inFlightRequests === 1_001)
  const { cut } = await app.gracefulShutdown.shutdown()
  t.equal(cut.length, 1_001)
  t.equal(log.messages(/^Request cut/).length, 1_000)
  t.equal(log.messages(/^1001 requests were cut; only the first 1000 have their own line/).length, 1)
  t.ok((await Promise.all(answers)).every(({ statusCode }) => statusCode === 503))
})
