// Two servers in one process. The public one uses HTTPS. The admin server uses HTTP on a port that only the orchestrator
// can reach, and answers the probes of the public one. One signal stops both.
//
//   node --import tsx example/two-servers.ts
//   curl -k https://127.0.0.1:3443/ & curl http://127.0.0.1:3001/ready

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { generate } from 'selfsigned'
// In your own service: import graceful from 'fastify-graceful'
import graceful from '../index.ts'
import { readPort } from './config.ts'

// A new certificate at each start is enough for an example. A real service reads its certificate from a file.
const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
  keyType: 'ec',
  algorithm: 'sha256',
  extensions: [{
    name: 'subjectAltName',
    altNames: [{ type: 2, value: 'localhost' }, { type: 7, ip: '127.0.0.1' }]
  }]
})

const shop = Fastify({ logger: { name: 'shop' }, https: { key, cert } })
// Its probes are on the admin port.
await shop.register(graceful, { shutdownTimeout: 20_000, drainTimeout: 15_000, health: false, ready: false })
shop.get('/', async () => {
  await sleep(2_000)
  return { hello: 'world' }
})

const admin = Fastify({ logger: { name: 'admin' } })
// Its times are longer, and its drain waits for the shop's whole shutdown, so it answers probes until the shop has
// closed.
await admin.register(graceful, { shutdownTimeout: 25_000, drainTimeout: 22_000, health: false, ready: false })
void admin.gracefulShutdown.track(shop.gracefulShutdown.wait(), 'the shop')
// On this server, the probes are normal routes: without this setting, it would reject them while it drains.
const probe = { config: { gracefulShutdown: false }, logLevel: 'warn' } as const
admin.get('/health', probe, shop.gracefulShutdown.healthHandler)
admin.get('/ready', probe, shop.gracefulShutdown.readyHandler)

for (const [app, name] of [[shop, 'the shop'], [admin, 'the admin server']] as const) {
  app.gracefulShutdown.onShutdown(({ log }) => { log.info(`Cleaning up ${name}`) }, { name: `clean up ${name}` })
}

// A signal shuts both instances down. The process exits when both are closed, with exit code 1 if one of them was not
// clean. The shop listens first: if the admin port is taken, the error stops the shop. In the other order, the admin
// server would wait for a shop that has never listened.
await shop.listen({ host: '127.0.0.1', port: readPort(process.env, 'PORT', 3443) })
await admin.listen({ host: '127.0.0.1', port: readPort(process.env, 'ADMIN_PORT', 3001) })
