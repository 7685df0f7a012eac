// `fastify-graceful/prometheus`: metrics with prom-client. It uses only what other code can use, too: the controller and the
// diagnostics channels.

import type { FastifyInstance } from 'fastify'
import type { Metric } from 'prom-client'
import type { Phase } from '../types/index.ts'
import type { GracefulMetricsOptions } from '../types/prometheus.ts'
import fp from 'fastify-plugin'
import { Counter, Gauge, Histogram, register as globalRegistry } from 'prom-client'
import { now } from './clock.ts'
import { MetricsNotRootError, OptionInvalidError } from './errors.ts'
import { follow } from './lifecycle/channels.ts'
import { PHASES } from './lifecycle/phase.ts'
import { resolveMetricsOptions } from './options.ts'

/** Seconds, around usual values of `shutdownDelay`, `drainTimeout` and `shutdownTimeout`. */
const BUCKETS = [0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 25, 30, 45, 60, 120]

/** The codes of a cut. Not FST_ERR_GRACEFUL_EXIT: the metrics of a forced exit are lost with the process. */
const CODES = [
  'FST_ERR_GRACEFUL_READ_TIMEOUT', 'FST_ERR_GRACEFUL_WRITE_TIMEOUT', 'FST_ERR_GRACEFUL_CONNECTION_TIMEOUT', 'FST_ERR_GRACEFUL_CONNECTION_CLOSED',
  'FST_ERR_GRACEFUL_DRAIN_TIMEOUT'
]

/** The route of requests that match none. Only the patterns of routes are label values, so clients cannot add any. */
const NO_ROUTE = 'none'

async function metrics (fastify: FastifyInstance, input: GracefulMetricsOptions): Promise<void> {
  const { register = globalRegistry, prefix } = resolveMetricsOptions(input)
  // A child context inherits it, but its hooks do not see the requests of other contexts.
  if (!Object.hasOwn(fastify, 'gracefulShutdown')) throw new MetricsNotRootError()
  const { gracefulShutdown } = fastify
  const own = (name: string, help: string) => {
    if (register.getSingleMetric(prefix + name) === undefined) return { name: prefix + name, help, registers: [] }
    throw new OptionInvalidError('option "register"', `a registry that already has a metric ${prefix}${name}`,
      'a registry without it: each instance needs its own registry, or its own "prefix"')
  }
  const add = <M extends Metric>(metric: M): M => {
    register.registerMetric(metric)
    return metric
  }
  // Read when they are scraped, so that requests need not update them.
  /** @param aggregator what prom-client's AggregatorRegistry makes of the values of all workers of node:cluster */
  const addGauge = (name: string, help: string, aggregator: 'sum' | 'max', read: () => number) => {
    add(new Gauge({ ...own(name, help), aggregator, collect () { this.set(read()) } }))
  }

  const routes = new Set<string>()
  /** When each phase has begun, on the clock of now(). */
  const begun: { [phase in Phase | 'shutdown']?: number } = {}
  const elapsed = (from: number | undefined, until = now()) => from === undefined ? 0 : (until - from) / 1000
  let lateness = 0
  const arrived = (age: number) => { lateness = Math.max(lateness, elapsed(begun.shutdown) - age / 1000) }

  add(new Gauge({
    ...own('phase', 'Whether the instance is in this phase: 1 for the current one, 0 for the others'),
    labelNames: ['phase'],
    collect () { for (const phase of PHASES) this.set({ phase }, Number(phase === gracefulShutdown.phase)) }
  }))
  add(new Gauge({
    ...own('requests_in_flight', 'Requests in flight'),
    labelNames: ['route'],
    collect () {
      this.reset()
      for (const route of routes) this.set({ route }, 0)
      for (const entry of gracefulShutdown.inFlight()) if (entry.kind === 'request') this.inc({ route: entry.route ?? NO_ROUTE })
    }
  }))
  addGauge('tasks_in_flight', 'Background work in flight', 'sum', () => gracefulShutdown.inFlight().filter(({ kind }) => kind === 'task').length)
  addGauge('shutdown_elapsed_seconds', 'How long the shutdown has taken so far; 0 before it', 'max', () => elapsed(begun.shutdown, begun.closed))
  addGauge('drain_elapsed_seconds', 'How long the drain has taken so far; 0 before it', 'max', () => elapsed(begun.draining, begun.closing))
  addGauge('last_request_lateness_seconds', 'How long after the start of the shutdown the last request so far arrived; 0 for none', 'max', () => lateness)
  const refused = add(new Counter({ ...own('requests_refused_total', 'Requests that were rejected with 503'), labelNames: ['route'] }))
  const cut = add(new Counter({
    ...own('requests_cut_total', 'Requests that were cut, by the code of the timeout'), labelNames: ['route', 'code']
  }))
  const tasksCut = add(new Counter(own('tasks_cut_total', 'Background work that was cut')))
  const phaseDuration = add(new Histogram({
    ...own('phase_duration_seconds', 'How long each phase of the shutdown took, observed as the next one starts'),
    labelNames: ['phase'],
    buckets: BUCKETS
  }))
  const shutdownDuration = add(new Histogram({ ...own('shutdown_duration_seconds', 'How long the shutdown took'), buckets: BUCKETS }))

  // Series that exist from the start: otherwise the increase from nothing to 1 is none to Prometheus.
  const addRoute = (route: string) => {
    routes.add(route)
    refused.inc({ route }, 0)
    for (const code of CODES) cut.inc({ route, code }, 0)
  }
  addRoute(NO_ROUTE)
  for (const phase of ['delaying', 'draining', 'closing']) phaseDuration.zero({ phase })
  fastify.addHook('onRoute', ({ url, config }) => {
    // Requests of probes, and of other routes that have opted out, are neither rejected nor waited for.
    if (config?.gracefulShutdown !== false) addRoute(url)
  })
  // The plugin's own hook runs before, so these requests are admitted. Hooks before that may have held one for some time.
  fastify.addHook('onRequest', (request, reply, done) => {
    if (begun.shutdown !== undefined && request.routeOptions.config.gracefulShutdown !== false) arrived(reply.elapsedTime)
    done()
  })

  let current: Phase = 'running'
  const unsubscribers = [
    follow(fastify, 'phase', ({ phase }) => {
      const time = begun[phase] = now()
      begun.shutdown ??= time
      if (current !== 'running') phaseDuration.observe({ phase: current }, elapsed(begun[current], time))
      if (phase === 'closed') shutdownDuration.observe(elapsed(begun.shutdown, time))
      current = phase
    }),
    follow(fastify, 'refused', ({ entry: { route = NO_ROUTE, age } }) => {
      refused.inc({ route })
      arrived(age)
    }),
    follow(fastify, 'cut', ({ entry, code }) => {
      if (entry.kind === 'task') tasksCut.inc()
      else cut.inc({ route: entry.route ?? NO_ROUTE, code })
    })
  ]
  void gracefulShutdown.wait().then(() => { for (const end of unsubscribers) end() })
}

/** The plugin, for `fastify.register()`: after `gracefulPlugin`, before the routes. */
const plugin = fp(metrics, { name: 'fastify-graceful/prometheus', fastify: '5.x', dependencies: ['fastify-graceful'] })

export { plugin as default, plugin as gracefulMetrics }
export type * from '../types/prometheus.ts'
