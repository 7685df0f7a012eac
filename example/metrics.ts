// Prometheus metrics: scraped from /metrics while the service runs, flushed once when it goes.

import type { FastifyInstance } from 'fastify'
import type { ShutdownContext } from '../index.ts'
import { rename, writeFile } from 'node:fs/promises'
import { Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client'

export interface Metrics {
  flush (file: string | undefined, context: ShutdownContext): Promise<void>
}

export function measure (app: FastifyInstance): Metrics {
  const register = new Registry()
  const registers = [register]
  const clock = shutdownClock(app)
  collectDefaultMetrics({ register })

  const duration = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time to answer a request; those refused while shutting down have the status 503',
    labelNames: ['method', 'route', 'status'],
    registers
  })
  app.addHook('onResponse', (request, reply, done) => {
    // The route's pattern, not the URL: a label must not take as many values as clients can think of.
    const { method, routeOptions: { url: route = 'none' } } = request
    duration.observe({ method, route, status: reply.statusCode }, reply.elapsedTime / 1000)
    done()
  })
  // Asked for when they are collected, so that no request has to keep them up to date.
  register.registerMetric(new Gauge({
    name: 'http_requests_in_flight',
    help: 'Requests that are being answered',
    registers: [],
    collect () { this.set(app.inFlightRequests) }
  }))
  register.registerMetric(new Gauge({
    name: 'shutdown_duration_seconds',
    help: 'How long the shutdown has been going on; 0 while there is none',
    registers: [],
    collect () { this.set(clock()) }
  }))

  const left = new Gauge({
    name: 'shutdown_requests_left',
    help: 'Requests that were cut: still in flight when the drain was over',
    registers
  })

  // Neither gated nor counted: a scrape is welcome while requests drain, and no drain waits for one.
  app.get('/metrics', { config: { gracefulShutdown: false }, logLevel: 'warn' }, async (_request, reply) => {
    return await reply.type(register.contentType).send(await register.metrics())
  })

  return {
    // No scrape can come any more: the listener is closed. What the last seconds were like, and how long it took to
    // drain them, would be lost; so they go to a file, as the textfile collector of Prometheus' node exporter reads
    // it (a push gateway is another way), or else to the log.
    async flush (file, { log, signal }) {
      left.set(app.inFlightRequests)
      const text = await register.metrics()
      if (file === undefined) {
        log.info({ shutdownDuration: clock(), metrics: text }, 'Last metrics')
        return
      }
      // Whoever reads the file finds the whole of it or none.
      await writeFile(`${file}.tmp`, text, { signal })
      await rename(`${file}.tmp`, file)
    }
  }
}

/** Seconds since the shutdown began. */
function shutdownClock (app: FastifyInstance): () => number {
  let start: number | undefined
  app.gracefulShutdown.signal.addEventListener('abort', () => { start = performance.now() })
  return () => start === undefined ? 0 : (performance.now() - start) / 1000
}
