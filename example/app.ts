// The service, put together. The order is the point.

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
  const { shutdownTimeout, shutdownDelay, drainTimeout, trustProxy } = config
  const app = Fastify({ logger: true, bodyLimit: 10 * MEGABYTE, trustProxy })
  const notes = new NoteStore(config.database)

  // First: the gate then stands before all other hooks, and whoever is refused costs neither a rate limit nor a
  // body; and every route that comes later is watched for a client that goes away before its answer.
  await app.register(graceful, {
    shutdownTimeout,
    shutdownDelay,
    drainTimeout,
    // Probes come every few seconds; only their failures are worth a line in the log.
    health: { logLevel: 'warn' },
    ready: { logLevel: 'warn', checks: { database: () => notes.answers() } }
  })

  // Before the rate limit, so that neither probes nor scrapes come under it.
  const metrics = measure(app, { shutdownDelay, drainTimeout })

  // 100 requests a second for each client, 20 of them at once: a bucket that holds 20 and empties within 200 ms.
  await app.register(rateLimit, { max: 20, timeWindow: 200, store: LeakyBuckets })

  await app.register(api, { prefix: '/api', notes })

  // Callbacks run in this order, one after another, when nothing is in flight and every connection is closed. The
  // metrics go first: the database may take its time to close, and they are what tells of it.
  app.gracefulShutdown.onShutdown(async context => {
    await metrics.flush(config.metricsFile, context)
  }, { name: 'flush metrics', timeout: 2_000 })
  app.gracefulShutdown.onShutdown(() => { notes.close() }, { name: 'close database' })

  return app
}
