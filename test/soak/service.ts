// The service under load: HTTP/1 with WebSockets and event streams, and HTTP/2, in one process. It measures when its parent asks for it.

import type { FastifyInstance } from 'fastify'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../../index.ts'
import { measure } from './measure.ts'

/** One leak in this many requests. */
const LEAK_EACH = 500

let requests = 0
/** What `--leak` leaves behind. */
const kept: unknown[] = []
const leaks: Record<string, (request: object) => void> = {
  heap: request => { kept.push(request) },
  listeners: () => { if (requests % LEAK_EACH === 0) process.on('SIGUSR2', () => {}) },
  timers: () => { if (requests % LEAK_EACH === 0) setInterval(() => {}, 60_000) }
}
const leak = leaks[process.env['LEAK'] ?? '']

async function build (http2: boolean): Promise<FastifyInstance> {
  const app = Fastify({ http2: http2 as false, logger: { level: 'silent' } })
  await app.register(gracefulPlugin, { readTimeout: 2_000, ready: { checks: { always: () => true } } })
  app.registerShutdownCallback(() => {}, { name: 'cleanup' })
  app.addHook('onRequest', async request => {
    requests++
    leak?.(request)
  })
  app.get('/', async () => ({ hello: 'world' }))
  app.get<{ Querystring: { ms: string } }>('/slow', async ({ query: { ms } }) => {
    await sleep(Number(ms))
    return { ms }
  })
  app.post('/echo', async ({ body }) => body)
  app.get('/tracked', async (_request, reply) => {
    void app.gracefulShutdown.track(sleep(5), 'work')
    return await reply.code(202).send({})
  })
  app.get('/events', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    const timer = setInterval(() => { reply.raw.write('data: tick\n\n') }, 10)
    reply.raw.on('close', () => { clearInterval(timer) })
  })
  if (!http2) {
    await app.register(websocket)
    await app.register(async instance => {
      instance.get('/socket', { websocket: true }, socket => {
        socket.on('message', message => { socket.send(message as Buffer) })
      })
    })
  }
  await app.listen({ port: 0, host: '127.0.0.1' })
  return app
}

let apps: FastifyInstance[] = []

const emitters = () => ({ process, ...Object.fromEntries(apps.map(({ server }, index) => [`http${index + 1}`, server])) })

const connectionsOf = async ({ server }: FastifyInstance) => await new Promise<number>(resolve => {
  server.getConnections((_error, count) => { resolve(count) })
})

/** Waits until all connections are closed and nothing is in flight. */
async function untilQuiet (): Promise<void> {
  for (const app of apps) {
    while (app.inFlightRequests > 0 || app.gracefulShutdown.inFlight().length > 0 || await connectionsOf(app) > 0) await sleep(10)
  }
}

async function answer (question: 'measure' | 'close'): Promise<void> {
  if (question === 'measure') await untilQuiet()
  else await Promise.all(apps.map(async app => { await app.close() }))
  process.send?.(await measure(requests, emitters()))
}

process.on('message', question => { void answer(question as 'measure' | 'close') })
// When its parent has gone.
void once(process, 'disconnect').then(() => process.exit())
const before = await measure(0, emitters())
apps = await Promise.all([false, true].map(build))
process.send?.([before, ...apps.map(({ server }) => (server.address() as AddressInfo).port)])
