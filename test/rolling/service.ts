// A typical service without the plugin: the routes of the example, on Fastify alone. What shuts it down adds the readiness probe.

import type { FastifyInstance } from 'fastify'
import Fastify from 'fastify'
import { api } from '../../example/api.ts'
import { readConfig } from '../../example/config.ts'
import { NoteStore } from '../../example/database.ts'

export const config = readConfig(process.env)
const notes = new NoteStore(config.database)

export const app: FastifyInstance = Fastify({ logger: true, http2: config.isHttp2 as false })
await app.register(api, { prefix: '/api', notes })
app.addHook('onClose', () => { notes.close() })

export async function listen (): Promise<void> {
  await app.listen({ host: config.host, port: config.port })
}

/** Logs how long it has been delaying, in the same words as the plugin. */
export function logDelay (since: number): void {
  app.log.info({ report: { phases: { delaying: Math.round(performance.now() - since) } } })
}
