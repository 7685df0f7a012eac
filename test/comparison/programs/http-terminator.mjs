// As in its README, "Usage with Fastify", then cleanup. It leaves signals and the exit to the application.
// Fastify is also closed, so that the hooks of its plugins run.

import { createHttpTerminator } from 'http-terminator'
import { cleanup, createApp, listen, settings } from './service.mjs'

const closers = []
process.once('SIGTERM', () => { void shutdown() })

for (let i = 0; i < settings.instances; i++) {
  const app = await createApp()
  const httpTerminator = createHttpTerminator({ server: app.server, gracefulTerminationTimeout: settings.limit })
  closers.push(async () => {
    await httpTerminator.terminate()
    await app.close()
    await cleanup()
  })
  await listen(app)
}

async function shutdown () {
  await Promise.all(closers.map(close => close()))
  process.exit(0)
}
