// As in the README.

import Fastify from 'fastify'
import gracefulPlugin from 'fastify-graceful'
import { addRoutes, cleanup, listen, serverOptions, settings } from './service.mjs'

for (let i = 0; i < settings.instances; i++) {
  // The plugin's own `readTimeout` in place of Fastify's `requestTimeout`.
  const app = Fastify({ ...serverOptions, requestTimeout: 0 })
  await app.register(gracefulPlugin, {
    shutdownDelay: settings.delay,
    drainTimeout: settings.limit,
    shutdownTimeout: settings.delay + settings.limit + 1000,
    readTimeout: 1000
  })
  await addRoutes(app)
  app.registerShutdownCallback(cleanup)
  await listen(app, { path: '/ready' })
}
