// As in its README: one instance for the process, the servers are closed in a shutdown handler, cleanup in the next one.

import { createLightship } from 'lightship'
import { cleanup, createApp, listen, settings } from './service.mjs'

const lightship = await createLightship({
  detectKubernetes: false,
  port: 0,
  shutdownDelay: settings.delay,
  gracefulShutdownTimeout: settings.limit,
  shutdownHandlerTimeout: settings.limit
})

const apps = []
lightship.registerShutdownHandler(async () => { await Promise.all(apps.map(app => app.close())) })
for (let i = 0; i < settings.instances; i++) lightship.registerShutdownHandler(cleanup)

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  apps.push(app)
  await listen(app, { port: lightship.server.address().port, path: '/ready' })
}
lightship.signalReady()
