// Two servers in one process: the public one speaks HTTPS; an admin one, on a port that only the orchestrator
// reaches, speaks HTTP and answers the probes of the public one. One signal stops both.
//
//   node --import tsx example/two-servers.ts
//   curl -k https://127.0.0.1:3443/ & curl http://127.0.0.1:3001/ready

import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { generate } from 'selfsigned'
// In your own service: import graceful from 'fastify-graceful'
import graceful from '../index.ts'
import { readPort } from './config.ts'

// Made anew at each start: for an example. A real service reads a real certificate.
const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
  keyType: 'ec',
  algorithm: 'sha256',
  extensions: [{
    name: 'subjectAltName',
    altNames: [{ type: 2, value: 'localhost' }, { type: 7, ip: '127.0.0.1' }]
  }]
})

const shop = Fastify({ logger: { name: 'shop' }, https: { key, cert } })
// No probes of its own: they are on the admin port.
await shop.register(graceful, { shutdownTimeout: 20_000, drainTimeout: 15_000, health: false, ready: false })
shop.get('/', async () => {
  await sleep(2_000)
  return { hello: 'world' }
})

const admin = Fastify({ logger: { name: 'admin' } })
// It outlasts the shop, so that the probes are answered to the end: its times are longer, and what it waits for is,
// besides its own requests, the shop's whole shutdown.
await admin.register(graceful, { shutdownTimeout: 25_000, drainTimeout: 22_000, health: false, ready: false })
void admin.gracefulShutdown.track(shop.gracefulShutdown.wait(), 'the shop')
// Mounted here, they are routes like others; without this, the admin server's own gate would refuse them.
const probe = { config: { gracefulShutdown: false }, logLevel: 'warn' } as const
admin.get('/health', probe, shop.gracefulShutdown.healthHandler)
admin.get('/ready', probe, shop.gracefulShutdown.readyHandler)

for (const [app, name] of [[shop, 'the shop'], [admin, 'the admin server']] as const) {
  app.gracefulShutdown.onShutdown(({ log }) => { log.info(`Cleaning up behind ${name}`) }, { name: `clean up ${name}` })
}

// One handler for signals serves all instances of the process. It waits for all of them, and if one did not go
// well, the exit code is 1. The shop comes first: should the admin port be taken, the error stops the shop, while an
// admin server would wait in vain for a shop that has never listened.
await shop.listen({ host: '127.0.0.1', port: readPort(process.env, 'PORT', 3443) })
await admin.listen({ host: '127.0.0.1', port: readPort(process.env, 'ADMIN_PORT', 3001) })
