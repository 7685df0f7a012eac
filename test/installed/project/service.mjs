// A service as an ES module, to be bundled. It writes its port when it listens.

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin, { gracefulPlugin as named } from 'fastify-graceful'

if (gracefulPlugin !== named) throw new Error('not itself')

const app = Fastify()
app.register(gracefulPlugin, { shutdownDelay: 100 })
app.get('/', async () => {
  await sleep(20)
  return 'served'
})
app.listen({ port: 0, host: '127.0.0.1' }, () => { console.log(app.server.address().port) })
