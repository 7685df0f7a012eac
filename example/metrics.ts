// Prometheus metrics: scraped from /metrics, also during a shutdown, and written once at the end. example/prometheus/ has alert
// rules, and example/grafana/ a dashboard.

import type { FastifyInstance } from 'fastify'
import type { ShutdownContext } from '../index.ts'
import { rename, writeFile } from 'node:fs/promises'
import { Histogram, Registry, collectDefaultMetrics } from 'prom-client'
// In your own service: import { gracefulMetrics } from 'fastify-graceful/prometheus'
import { gracefulMetrics } from '../lib/prometheus.ts'

export interface Metrics {
  flush (file: string | undefined, context: ShutdownContext): Promise<void>
}

export async function measure (app: FastifyInstance): Promise<Metrics> {
  const register = new Registry()
  collectDefaultMetrics({ register })
  await app.register(gracefulMetrics, { register })

  const duration = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time to answer a request; requests rejected during a shutdown have the status 503',
    labelNames: ['method', 'route', 'status'],
    registers: [register]
  })
  app.addHook('onResponse', (request, reply, done) => {
    // The route's pattern, not the URL: the number of label values must be limited.
    const { method, routeOptions: { url: route = 'none' } } = request
    duration.observe({ method, route, status: reply.statusCode }, reply.elapsedTime / 1000)
    done()
  })

  // Neither rejected nor counted: it can be scraped while draining, and the drain does not wait for a scrape.
  app.get('/metrics', { config: { gracefulShutdown: false }, logLevel: 'warn' }, async (_request, reply) => {
    return await reply.type(register.contentType).send(await register.metrics())
  })

  return {
    // The listener is closed, so the metrics of the last seconds can no longer be scraped, such as those of requests that were
    // cut at the end of the drain. They are written to a file in the format of the textfile collector of Prometheus' node
    // exporter, or to the log. (A push gateway also works.)
    async flush (file, { log, signal }) {
      const text = await register.metrics()
      if (file === undefined) {
        log.info({ metrics: text }, 'Last metrics')
        return
      }
      // Renamed when it is complete, so that a reader never sees half a file.
      await writeFile(`${file}.tmp`, text, { signal })
      await rename(`${file}.tmp`, file)
    }
  }
}
