// A service with the plugin. OPTIONS are the plugin's, in JSON; it takes START milliseconds to start.

import { spawn } from 'node:child_process'
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from 'fastify-graceful'

const { OPTIONS = '{}', START = '0', HOST = '0.0.0.0', PORT = '3000' } = process.env

const app = Fastify({ logger: true })
await app.register(gracefulPlugin, JSON.parse(OPTIONS))
app.registerShutdownCallback(() => {}, { name: 'database' })

app.get('/slow', async ({ query }) => {
  await sleep(Number(query.ms))
  return { slow: true }
})

app.get('/block', () => {
  // Not by the logger, which waits for its previous line to be written.
  writeSync(2, '{"msg":"blocked"}\n')
  for (;;);
})

app.get('/leak', async () => {
  for (const leak = []; ; await sleep(1)) leak.push(Buffer.alloc(1024 * 1024, 1))
})

app.get('/throw', async () => {
  setImmediate(() => { throw new Error('Not caught') })
})

// A grandchild whose parent has exited: PID 1 inherits it.
app.get('/orphan', async () => {
  spawn('sh', ['-c', 'sleep 0.1 &'])
})

app.log.info('starting')
await sleep(Number(START))
await app.listen({ host: HOST, port: Number(PORT) })
