// Prometheus metrics: scraped from /metrics, also during a shutdown, and written once at the end.

import type { FastifyInstance } from 'fastify'
import type { ShutdownContext } from '../index.ts'
import { rename, writeFile } from 'node:fs/promises'
import { Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export interface Metrics {
  flush (file: string | undefined, context: ShutdownContext): Promise<void>
}

/** The plugin's options, in milliseconds. */
export interface Limits {
  shutdownDelay: number
  drainTimeout: number
}

export function measure (app: FastifyInstance, limits: Limits): Metrics {
  const register = new Registry()
  const clock = new ShutdownClock(app)
  collectDefaultMetrics({ register })

  const duration = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time to answer a request; requests rejected during a shutdown have the status 503',
    labelNames: ['method', 'route', 'status'],
    registers: [register]
  })
  app.addHook('onResponse', (request, reply, done) => {
    // The route's pattern, not the URL: the number of label values must be limited.
    const { method, routeOptions: { url: route = 'none', config } } = request
    duration.observe({ method, route, status: reply.statusCode }, reply.elapsedTime / 1000)
    // Probes and scrapes go on until the end, and say nothing about the load balancer.
    if (config.gracefulShutdown !== false) clock.arrived(reply.elapsedTime)
    done()
  })
  // Read when they are scraped, so that requests need not update them.
  const gauge = (name: string, help: string, value: () => number) => {
    register.registerMetric(new Gauge({ name, help, registers: [], collect () { this.set(value()) } }))
  }
  gauge('http_requests_in_flight', 'Requests that are being answered', () => app.inFlightRequests)
  gauge('shutdown_duration_seconds', 'How long the shutdown has taken so far; 0 if none has started', () => clock.sinceStart() / 1000)
  // The following can be scraped while they matter: during the delay, and while requests are in flight.
  gauge('shutdown_delay_seconds', 'shutdownDelay, as configured', () => limits.shutdownDelay / 1000)
  gauge('shutdown_last_request_seconds', 'How long after the start of the shutdown the last request so far arrived; 0 for none',
    () => clock.lastArrival / 1000)
  gauge('shutdown_drain_timeout_seconds', 'drainTimeout, as configured', () => limits.drainTimeout / 1000)
  gauge('shutdown_drain_seconds_left', 'Time until requests in flight are cut; counts down while draining',
    () => Math.max(0, limits.drainTimeout - clock.sinceDrain()) / 1000)

  // Neither rejected nor counted: it can be scraped while draining, and the drain does not wait for a scrape.
  app.get('/metrics', { config: { gracefulShutdown: false }, logLevel: 'warn' }, async (_request, reply) => {
    return await reply.type(register.contentType).send(await register.metrics())
  })

  return {
    // The listener is closed, so the metrics of the last seconds can no longer be scraped. They are written to a file in
    // the format of the textfile collector of Prometheus' node exporter, or to the log. (A push gateway also works.) The
    // number of requests that were cut is in the report in the log.
    async flush (file, { log, signal }) {
      const text = await register.metrics()
      if (file === undefined) {
        log.info({ shutdownDuration: clock.sinceStart() / 1000, metrics: text }, 'Last metrics')
        return
      }
      // Renamed when it is complete, so that a reader never sees half a file.
      await writeFile(`${file}.tmp`, text, { signal })
      await rename(`${file}.tmp`, file)
    }
  }
}

/** How often the phase is read: only the start of a shutdown has an event. */
const LOOK_EVERY = 50

/** When the shutdown and its drain began. All in milliseconds. */
class ShutdownClock {
  #start: number | undefined
  #drain: number | undefined
  /** How long after the start the last request arrived. */
  lastArrival = 0

  constructor (app: FastifyInstance) {
    const { gracefulShutdown } = app
    gracefulShutdown.signal.addEventListener('abort', () => {
      this.#start = performance.now()
      const look = () => {
        if (gracefulShutdown.phase === 'delaying') return
        this.#drain = performance.now()
        clearInterval(looking)
      }
      const looking = setInterval(look, LOOK_EVERY).unref()
      look()
    })
  }

  sinceStart (): number {
    return this.#start === undefined ? 0 : performance.now() - this.#start
  }

  sinceDrain (): number {
    return this.#drain === undefined ? 0 : performance.now() - this.#drain
  }

  /** A request that arrived `age` milliseconds ago has been answered. */
  arrived (age: number): void {
    if (this.#start !== undefined) this.lastArrival = Math.max(this.lastArrival, this.sinceStart() - age)
  }
}
