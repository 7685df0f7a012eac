// Builds the service. The order of registration matters.

import type { FastifyInstance } from 'fastify'
import type { Config } from './config.ts'
import Fastify from 'fastify'
import rateLimit from '@fastify/rate-limit'
// In your own service: import graceful from 'fastify-graceful'
import graceful from '../index.ts'
import { api } from './api.ts'
import { LeakyBuckets } from './leaky-buckets.ts'
import { NoteStore } from './database.ts'
import { measure } from './metrics.ts'

const MEGABYTE = 1024 * 1024

export async function buildApp (config: Config): Promise<FastifyInstance> {
  const { shutdownTimeout, shutdownDelay, shutdownQuiet, drainTimeout, trustProxy, isHttp2 } = config
  // `as false`: the types are those of HTTP/1, and the routes use nothing in which HTTP/2 differs.
  const app = Fastify({ logger: true, bodyLimit: 10 * MEGABYTE, trustProxy, http2: isHttp2 as false })
  const notes = new NoteStore(config.database)

  // First, so that a request is rejected before other hooks run and before its body is read, and so that the plugin
  // tracks the requests of all routes that are registered later.
  await app.register(graceful, {
    shutdownTimeout,
    shutdownDelay: shutdownQuiet < shutdownDelay ? { max: shutdownDelay, quiet: shutdownQuiet } : shutdownDelay,
    drainTimeout,
    // Orchestrators send probes every few seconds; log only the failed ones.
    health: { logLevel: 'warn' },
    ready: { logLevel: 'warn', checks: { database: () => notes.answers() } }
  })

  // Before the routes, which become labels, and before the rate limit, so that it does not apply to scrapes.
  const metrics = await measure(app)

  // 100 requests a second for each client, in bursts of at most 20: a bucket that holds 20 and empties within 200 ms.
  await app.register(rateLimit, { max: 20, timeWindow: 200, store: LeakyBuckets })

  await app.register(api, { prefix: '/api', notes })

  // Shutdown callbacks run in this order, one after another, when nothing is in flight and all connections are closed.
  // The metrics come first, so that they are written even if closing the database takes too long.
  app.gracefulShutdown.onShutdown(async context => {
    await metrics.flush(config.metricsFile, context)
  }, { name: 'flush metrics', timeout: 2_000 })
  app.gracefulShutdown.onShutdown(() => { notes.close() }, { name: 'close database' })

  return app
}
