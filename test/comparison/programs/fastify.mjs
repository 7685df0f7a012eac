// Fastify alone: close() on SIGTERM, then cleanup.

import { cleanup, createApp, listen, settings } from './service.mjs'

const apps = []
process.once('SIGTERM', () => { void shutdown() })

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  apps.push(app)
  await listen(app)
}

async function shutdown () {
  await Promise.all(apps.map(app => app.close()))
  for (let i = 0; i < settings.instances; i++) await cleanup()
  process.exit(0)
}
