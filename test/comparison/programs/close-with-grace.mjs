// As in its README, "Example with Fastify", then cleanup. One call for all instances.

import closeWithGrace from 'close-with-grace'
import { cleanup, createApp, listen, settings } from './service.mjs'

const apps = []

closeWithGrace({ delay: settings.limit }, async ({ signal, err }) => {
  if (err) apps[0].log.error({ err }, 'server closing with error')
  else apps[0].log.info(`${signal} received, server closing`)
  await Promise.all(apps.map(app => app.close()))
  for (let i = 0; i < settings.instances; i++) await cleanup()
})

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  apps.push(app)
  await listen(app)
}
