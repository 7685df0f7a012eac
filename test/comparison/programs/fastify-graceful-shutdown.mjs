// As in its README; cleanup in an onClose hook, as it recommends under "Caveats".

import Fastify from 'fastify'
import fastifyGracefulShutdown from 'fastify-graceful-shutdown'
import { addRoutes, cleanup, listen, serverOptions, settings } from './service.mjs'

for (let i = 0; i < settings.instances; i++) {
  const app = Fastify(serverOptions)
  await app.register(fastifyGracefulShutdown, { timeout: settings.limit })
  await addRoutes(app)
  app.addHook('onClose', cleanup)
  await listen(app)
}
