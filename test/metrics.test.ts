// fastify-graceful/prometheus: what the metrics say.

import t from 'tap'
import type { Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { OpenMetricsContentType } from 'prom-client'
import type { DiagnosticsChannels, GracefulOptions, Phase } from '../types/index.ts'
import type { GracefulMetricsOptions } from '../types/prometheus.ts'
import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { connect } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { AggregatorRegistry, Gauge, Registry, register as globalRegistry } from 'prom-client'
import { gracefulMetrics } from '../lib/prometheus.ts'
import { createApp, createAppBehind, Deferred, eventually, heldRoute, listen, RawClient } from './helpers.ts'

const CHANNELS = ['phase', 'refused', 'cut', 'callback', 'report'].map(name => channel(`fastify-graceful:${name}`))

interface Measured {
  app: FastifyInstance
  register: Registry
  /** The value of a series, as in a query: `name{label="value"}`, without the prefix; undefined if there is none. */
  value: (series: string) => Promise<number | undefined>
}

async function measured (t: Test, options: GracefulOptions = {}, server: object = {}): Promise<Measured> {
  const { app } = await createApp(t, options, server)
  const register = new Registry()
  await app.register(gracefulMetrics, { register })
  const value = async (series: string) => {
    const line = (await register.metrics()).split('\n').find(text => text.startsWith(`fastify_graceful_${series} `))
    return line === undefined ? undefined : Number(line.split(' ').at(-1))
  }
  return { app, register, value }
}

/** Resolves when an instance's next shutdown reaches a phase. */
async function reached (phase: Phase): Promise<void> {
  await new Promise<void>(resolve => {
    const look = (message: unknown) => {
      if ((message as DiagnosticsChannels['fastify-graceful:phase']).phase !== phase) return
      unsubscribe('fastify-graceful:phase', look)
      resolve()
    }
    subscribe('fastify-graceful:phase', look)
  })
}

t.test('each metric and each route has a series before the first request; probes and routes that opted out have none', async t => {
  const { app, register, value } = await measured(t)
  app.get('/users/:id', async () => 'user')
  app.get('/metrics', { config: { gracefulShutdown: false } }, async () => 'metrics')
  await app.ready()
  for (const route of ['/users/:id', 'none']) {
    t.equal(await value(`requests_in_flight{route="${route}"}`), 0)
    t.equal(await value(`requests_refused_total{route="${route}"}`), 0)
    for (const code of ['READ', 'WRITE', 'DRAIN']) {
      t.equal(await value(`requests_cut_total{route="${route}",code="FST_ERR_GRACEFUL_${code}_TIMEOUT"}`), 0)
    }
  }
  for (const phase of ['delaying', 'draining', 'closing']) t.equal(await value(`phase_duration_seconds_count{phase="${phase}"}`), 0)
  for (const name of ['tasks_in_flight', 'tasks_cut_total', 'shutdown_duration_seconds_count', 'shutdown_elapsed_seconds',
    'drain_elapsed_seconds', 'last_request_lateness_seconds']) t.equal(await value(name), 0, name)
  t.equal(await value('phase{phase="running"}'), 1)
  t.equal(await value('phase{phase="draining"}'), 0)
  t.notMatch(await register.metrics(), /route="\/(?:health|ready|metrics)"/)
})

t.test('counts requests and background work in flight, requests by route', async t => {
  const { app, value } = await measured(t)
  const { entered, release } = heldRoute(app, '/held/:id')
  const work = new Deferred()
  const port = await listen(app)
  const client = new RawClient(port).get('/held/1')
  await entered
  void app.gracefulShutdown.track(work.promise, 'job 1')
  t.equal(await value('requests_in_flight{route="/held/:id"}'), 1)
  t.equal(await value('requests_in_flight{route="none"}'), 0)
  t.equal(await value('tasks_in_flight'), 1)
  release()
  work.resolve()
  await client.until(/held/)
  await work.promise
  t.equal(await value('requests_in_flight{route="/held/:id"}'), 0)
  t.equal(await value('tasks_in_flight'), 0)
})

t.test('a request of a route that is older than the plugin is counted once, however often the metrics are read', async t => {
  const { app } = await createApp(t)
  const { entered, release } = heldRoute(app, '/older')
  const register = new Registry()
  await app.register(gracefulMetrics, { register })
  const client = new RawClient(await listen(app)).get('/older')
  await entered
  for (let read = 0; read < 2; read++) t.match(await register.metrics(), /requests_in_flight\{route="\/older"\} 1$/m)
  release()
  await client.until(/held/)
  await eventually(() => app.inFlightRequests === 0)
  t.notMatch(await register.metrics(), /requests_in_flight\{route="\/older"\} [1-9]/)
})

t.test('counts rejected requests by route, and those of unknown paths together', async t => {
  const { app, value } = await measured(t)
  const { entered, release } = heldRoute(app, '/held/:id')
  const port = await listen(app)
  const client = new RawClient(port).get('/held/1')
  await entered
  const open = await Promise.all(['/held/2', '/unknown/1', '/unknown/2'].map(async path => {
    const other = new RawClient(port).get('/health')
    await other.until(/healthy/)
    return { other, path }
  }))
  const report = app.gracefulShutdown.shutdown()
  await Promise.all(open.map(async ({ other, path }) => await other.get(path).until(/ 503 /)))
  t.equal(await value('requests_refused_total{route="/held/:id"}'), 1)
  t.equal(await value('requests_refused_total{route="none"}'), 2)
  release()
  await client.closed
  t.match(await report, { refused: 3 })
})

t.test('counts cut requests by route and code, and background work', async t => {
  const { app, value } = await measured(t, { drainTimeout: 50, shutdownTimeout: 5_000 })
  const { entered, release } = heldRoute(app)
  t.teardown(release)
  const port = await listen(app)
  new RawClient(port).get('/held')
  await entered
  void app.gracefulShutdown.track(new Promise(() => {}), 'endless')
  await app.gracefulShutdown.shutdown()
  t.equal(await value('requests_cut_total{route="/held",code="FST_ERR_GRACEFUL_DRAIN_TIMEOUT"}'), 1)
  t.equal(await value('requests_cut_total{route="/held",code="FST_ERR_GRACEFUL_WRITE_TIMEOUT"}'), 0)
  t.equal(await value('requests_cut_total{route="/held",code="FST_ERR_GRACEFUL_CONNECTION_TIMEOUT"}'), 0)
  t.equal(await value('requests_cut_total{route="/held",code="FST_ERR_GRACEFUL_CONNECTION_CLOSED"}'), 0)
  t.equal(await value('tasks_cut_total'), 1)
})

t.test('a request of no route is cut, and counted as such', async t => {
  const { app, value } = await measured(t, { drainTimeout: 50, shutdownTimeout: 5_000 })
  const entered = new Deferred()
  const released = new Deferred()
  app.setNotFoundHandler(async () => {
    entered.resolve()
    await released.promise
    return 'late'
  })
  const port = await listen(app)
  new RawClient(port).get('/unknown')
  await entered.promise
  t.equal(await value('requests_in_flight{route="none"}'), 1)
  await app.gracefulShutdown.shutdown()
  released.resolve()
  t.equal(await value('requests_cut_total{route="none",code="FST_ERR_GRACEFUL_DRAIN_TIMEOUT"}'), 1)
})

t.test('clients cannot add label values, not even with methods of their own on HTTP/2', async t => {
  const { app, register } = await measured(t, {}, { http2: true })
  app.get('/', async () => 'x')
  const port = await listen(app)
  const series = async () => (await register.metrics()).split('\n').map(line => line.replace(/ \S+$/, ''))
  const before = await series()
  const session = connect(`http://127.0.0.1:${port}`)
  for (const [method, path] of [['GET', '/'], ['GET', '/unknown'], ['STRANGE', '/'], ['PUT', '/?x=1']]) {
    await once(session.request({ ':method': method, ':path': path }).resume(), 'close')
  }
  session.close()
  t.strictSame(await series(), before)
})

t.test('shows the phase, and observes how long each one and the whole shutdown took', async t => {
  const { app, register, value } = await measured(t, { shutdownDelay: 100 })
  const { entered, release } = heldRoute(app)
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await entered
  const drains = reached('draining')
  const report = app.gracefulShutdown.shutdown()
  t.equal(await value('phase{phase="delaying"}'), 1)
  t.equal(await value('phase{phase="running"}'), 0)
  t.equal(await value('drain_elapsed_seconds'), 0)
  t.ok(await value('shutdown_elapsed_seconds') as number > 0)
  await drains
  t.equal(await value('phase{phase="draining"}'), 1)
  t.equal(await value('phase_duration_seconds_count{phase="delaying"}'), 1)
  t.equal(await value('phase_duration_seconds_bucket{le="0.5",phase="delaying"}'), 1)
  t.ok(await value('drain_elapsed_seconds') as number > 0)
  release()
  await client.closed
  const { time, phases } = await report
  t.equal(await value('phase{phase="closed"}'), 1)
  const observed = [...(await register.metrics()).matchAll(/phase_duration_seconds_count\{phase="(.*?)"\} 1$/gm)].map(([, phase]) => phase)
  t.strictSame(observed, ['delaying', 'draining', 'closing'])
  const near = (seconds: number | undefined, milliseconds: number) => Math.abs((seconds ?? NaN) * 1_000 - milliseconds) < 50
  t.equal(await value('shutdown_duration_seconds_count'), 1)
  t.ok(near(await value('shutdown_duration_seconds_sum'), time))
  t.ok(near(await value('phase_duration_seconds_sum{phase="delaying"}'), phases.delaying))
  t.ok(near(await value('phase_duration_seconds_sum{phase="draining"}'), phases.draining))
  t.equal(await value('shutdown_elapsed_seconds'), await value('shutdown_duration_seconds_sum'))
  t.equal(await value('drain_elapsed_seconds'), await value('phase_duration_seconds_sum{phase="draining"}'))
})

t.test('shows when the last request arrived after the start of the shutdown, admitted or rejected, probes aside', async t => {
  const { app, value } = await measured(t, { shutdownDelay: 1_000 })
  const { entered, release } = heldRoute(app)
  app.get('/', async () => 'x')
  app.get('/metrics', { config: { gracefulShutdown: false } }, async () => 'metrics')
  const port = await listen(app)
  const held = new RawClient(port).get('/held')
  await entered
  const open = [new RawClient(port), new RawClient(port)]
  await Promise.all(open.map(async client => await client.get('/').until(/\nx/)))
  const late = async () => await value('last_request_lateness_seconds') as number
  t.equal(await late(), 0)

  const drains = reached('draining')
  const report = app.gracefulShutdown.shutdown()
  t.equal(await late(), 0)
  for (const path of ['/ready', '/metrics']) await new RawClient(port).get(path).closed
  t.equal(await late(), 0)
  await new RawClient(port).get('/').closed
  const admitted = await late()
  t.ok(admitted > 0 && admitted < 1, String(admitted))
  await drains
  t.equal(await late(), admitted)
  await new RawClient(port).get('/').until(/ 503 /)
  t.ok(await late() >= 0.99, 'a rejected request arrived after the delay')
  release()
  await held.closed
  await report
})

t.test('a request that arrived before the shutdown, and that a hook has held, is not late', async t => {
  const released = new Deferred()
  const app = await createAppBehind(t, instance => { instance.addHook('onRequest', async () => { await released.promise }) })
  const register = new Registry()
  await app.register(gracefulMetrics, { register })
  app.get('/', async () => 'x')
  const client = new RawClient(await listen(app)).get('/')
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  released.resolve()
  await client.closed
  await report
  t.match(await register.metrics(), /^fastify_graceful_last_request_lateness_seconds 0$/m)
})

t.test('each instance has its own metrics', async t => {
  const [one, other] = [await measured(t), await measured(t)]
  await one.app.close()
  t.equal(await one.value('shutdown_duration_seconds_count'), 1)
  t.equal(await other.value('shutdown_duration_seconds_count'), 0)
})

t.test('the metrics cannot be registered in a child context, where they would miss requests', async t => {
  const { app } = await createApp(t)
  const child = app.register(async instance => { await instance.register(gracefulMetrics, { register: new Registry() }) })
  await t.rejects(Promise.resolve(child), { code: 'FST_ERR_GRACEFUL_METRICS_NOT_ROOT', message: /root instance.*fastify-plugin/ })
})

t.test('subscribes until the shutdown is complete', async t => {
  t.notOk(CHANNELS.some(({ hasSubscribers }) => hasSubscribers))
  const { app } = await measured(t)
  t.strictSame(CHANNELS.map(({ hasSubscribers }) => hasSubscribers), [true, true, true, false, false])
  await app.close()
  t.notOk(CHANNELS.some(({ hasSubscribers }) => hasSubscribers))
})

t.test("uses prom-client's global registry by default", async t => {
  t.teardown(() => { globalRegistry.clear() })
  const { app } = await createApp(t)
  await app.register(gracefulMetrics)
  t.ok(globalRegistry.getSingleMetric('fastify_graceful_phase') instanceof Gauge)
})

t.test('works with a registry in the format of OpenMetrics', async t => {
  const { app } = await createApp(t)
  const register = new Registry<OpenMetricsContentType>()
  register.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  await app.register(gracefulMetrics, { register })
  t.match(await register.metrics(), /^fastify_graceful_requests_refused_total\{route="none"\} 0$/m)
})

t.test('needs gracefulPlugin', async t => {
  await t.rejects(async () => { await Fastify().register(gracefulMetrics).ready() },
    { message: /dependency 'fastify-graceful' of plugin 'fastify-graceful\/prometheus' is not registered/ })
})

t.test('rejects invalid options', async t => {
  const code = 'FST_ERR_GRACEFUL_OPTION_INVALID'
  for (const [options, message] of [
    [{ register: 'x' }, /option "register": got 'x' \(string\), allowed is a Registry of prom-client/],
    [{ register: null }, /option "register": got null/],
    [{ prefix: 'my-app_' }, /option "prefix": got 'my-app_' \(string\), allowed is letters/],
    [{ prefix: '' }, /option "prefix"/],
    [{ prefix: 1 }, /option "prefix"/]
  ] as const) {
    const { app } = await createApp(t)
    await t.rejects(async () => { await app.register(gracefulMetrics, options as unknown as GracefulMetricsOptions) }, { code, message })
  }
  const { app } = await createApp(t)
  await t.rejects(async () => { await app.register(gracefulMetrics, { registry: new Registry() } as GracefulMetricsOptions) },
    { code: 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', message: /option "registry" \(did you mean "register"\?\)/ })
})

t.test('rejects a registry that has the metrics of another instance', async t => {
  const { register } = await measured(t)
  const { app } = await createApp(t)
  await t.rejects(async () => { await app.register(gracefulMetrics, { register }) },
    { code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: /already has a metric fastify_graceful_phase, allowed is .*its own registry/ })
})

t.test('in node:cluster, times are those of the slowest worker, and counts are the sum', async t => {
  const options = { shutdownDelay: 20_000, shutdownTimeout: 60_000 }
  const workers = await Promise.all([measured(t, options), measured(t, options)])
  const reports = []
  for (const { app } of workers) {
    await listen(app)
    reports.push(app.gracefulShutdown.shutdown())
    await sleep(50)
  }
  // As the primary does with what the workers have sent.
  const metrics = await Promise.all(workers.map(async ({ register }) => await register.getMetricsAsJSON()))
  const all = await AggregatorRegistry.aggregate(metrics).metrics()
  const [, elapsed] = /^fastify_graceful_shutdown_elapsed_seconds (.+)$/m.exec(all) ?? []
  const times = metrics.map(metric => metric.find(({ name }) => name.endsWith('shutdown_elapsed_seconds')) as unknown as { values: Array<{ value: number }> })
  t.equal(Number(elapsed), times[0]?.values[0]?.value, 'the first has begun to shut down earlier')
  t.match(all, /^fastify_graceful_phase\{phase="delaying"\} 2$/m)
  for (const { app } of workers) app.gracefulShutdown.skipDelay()
  await Promise.all(reports)
})
