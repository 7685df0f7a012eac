// As in its README; cleanup in `onShutdown`, which also closes Fastify, so that the hooks of its plugins run.
// Its `preShutdown` is "not time-consuming", so there is no delay.

import gracefulShutdown from 'http-graceful-shutdown'
import { cleanup, createApp, listen, settings } from './service.mjs'

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  gracefulShutdown(app.server, {
    timeout: settings.limit,
    onShutdown: async () => {
      await app.close()
      await cleanup()
    }
  })
  await listen(app)
}
