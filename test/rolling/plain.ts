// A typical service: Fastify with close-with-grace and nothing else. The same routes as the example.

import closeWithGrace from 'close-with-grace'
import Fastify from 'fastify'
import { api } from '../../example/api.ts'
import { readConfig } from '../../example/config.ts'
import { NoteStore } from '../../example/database.ts'

const config = readConfig(process.env)
const app = Fastify({ logger: true })
const notes = new NoteStore(config.database)
app.get('/ready', { logLevel: 'warn' }, async () => ({ ready: true }))
await app.register(api, { prefix: '/api', notes })
closeWithGrace({ logger: false }, async () => {
  await app.close()
  notes.close()
})
await app.listen({ host: config.host, port: config.port })
