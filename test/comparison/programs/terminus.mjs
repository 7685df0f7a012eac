// As in its README: the delay in `beforeShutdown`, `useExit0`, as it recommends for Kubernetes; cleanup in `onSignal`.
// `onSignal` also closes Fastify, so that the hooks of its plugins run.

import { setTimeout as sleep } from 'node:timers/promises'
import { createTerminus } from '@godaddy/terminus'
import { cleanup, createApp, listen, settings } from './service.mjs'

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  await app.ready()
  createTerminus(app.server, {
    healthChecks: { '/ready': async () => {} },
    timeout: settings.limit,
    useExit0: true,
    beforeShutdown: async () => { await sleep(settings.delay) },
    onSignal: async () => {
      await app.close()
      await cleanup()
    },
    logger: (message, err) => { app.log.error({ err }, message) }
  })
  await listen(app, { path: '/ready' })
}
