// close-with-grace, with what a user has to add: a readiness probe that fails at once, and a delay before close().

import closeWithGrace from 'close-with-grace'
import { setTimeout as sleep } from 'node:timers/promises'
import { app, config, listen, logDelay } from './service.ts'

let isReady = true
app.get('/ready', { logLevel: 'silent' }, async (_request, reply) => await reply.code(isReady ? 200 : 503).send())
closeWithGrace({ delay: config.shutdownTimeout, logger: false }, async () => {
  const since = performance.now()
  isReady = false
  await sleep(config.shutdownDelay)
  logDelay(since)
  await app.close()
})
await listen()
