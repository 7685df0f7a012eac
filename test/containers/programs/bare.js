// Fastify without the plugin.

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'

const app = Fastify({ logger: true })
app.get('/slow', async ({ query }) => {
  await sleep(Number(query.ms))
  return { slow: true }
})
await app.listen({ host: '0.0.0.0', port: 3000 })
