// Prometheus metrics: scraped from /metrics while the service runs and while it goes, flushed once at the end.

import type { FastifyInstance } from 'fastify'
import type { ShutdownContext } from '../index.ts'
import { rename, writeFile } from 'node:fs/promises'
import { Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export interface Metrics {
  flush (file: string | undefined, context: ShutdownContext): Promise<void>
}

/** Milliseconds, as the plugin was given them. */
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
    help: 'Time to answer a request; those refused while shutting down have the status 503',
    labelNames: ['method', 'route', 'status'],
    registers: [register]
  })
  app.addHook('onResponse', (request, reply, done) => {
    // The route's pattern, not the URL: a label must not take as many values as clients can think of.
    const { method, routeOptions: { url: route = 'none', config } } = request
    duration.observe({ method, route, status: reply.statusCode }, reply.elapsedTime / 1000)
    // Probes and scrapes come to the end, and say nothing about the load balancer.
    if (config.gracefulShutdown !== false) clock.arrived(reply.elapsedTime)
    done()
  })
  // Asked for when they are collected, so that no request has to keep them up to date.
  const gauge = (name: string, help: string, value: () => number) => {
    register.registerMetric(new Gauge({ name, help, registers: [], collect () { this.set(value()) } }))
  }
  gauge('http_requests_in_flight', 'Requests that are being answered', () => app.inFlightRequests)
  gauge('shutdown_duration_seconds', 'How long the shutdown has been going on; 0 while there is none', () => clock.sinceStart() / 1000)
  // What follows can be scraped while it matters: in the delay, and as long as somebody is in flight.
  gauge('shutdown_delay_seconds', 'shutdownDelay, as configured', () => limits.shutdownDelay / 1000)
  gauge('shutdown_last_request_seconds', 'How long after the start of the shutdown the last request so far came in; 0 for none',
    () => clock.lastArrival / 1000)
  gauge('shutdown_drain_timeout_seconds', 'drainTimeout, as configured', () => limits.drainTimeout / 1000)
  gauge('shutdown_drain_seconds_left', 'Until requests in flight are cut; counts down while they drain',
    () => Math.max(0, limits.drainTimeout - clock.sinceDrain()) / 1000)

  // Neither gated nor counted: a scrape is welcome while requests drain, and no drain waits for one.
  app.get('/metrics', { config: { gracefulShutdown: false }, logLevel: 'warn' }, async (_request, reply) => {
    return await reply.type(register.contentType).send(await register.metrics())
  })

  return {
    // No scrape can come any more: the listener is closed. What the last seconds were like, and how long it took to
    // drain them, would be lost; so they go to a file, as the textfile collector of Prometheus' node exporter reads
    // it (a push gateway is another way), or else to the log. How many were cut, the report in the log says.
    async flush (file, { log, signal }) {
      const text = await register.metrics()
      if (file === undefined) {
        log.info({ shutdownDuration: clock.sinceStart() / 1000, metrics: text }, 'Last metrics')
        return
      }
      // Whoever reads the file finds the whole of it or none.
      await writeFile(`${file}.tmp`, text, { signal })
      await rename(`${file}.tmp`, file)
    }
  }
}

/** How often it is looked at which phase the shutdown is in: only its start tells by itself. */
const LOOK_EVERY = 50

/** When the shutdown and its drain began. All in milliseconds. */
class ShutdownClock {
  #start: number | undefined
  #drain: number | undefined
  /** How long after the start the last request came in. */
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

  /** A request has been answered that came in so long ago. */
  arrived (age: number): void {
    if (this.#start !== undefined) this.lastArrival = Math.max(this.lastArrival, this.sinceStart() - age)
  }
}
