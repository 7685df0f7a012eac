// What the programs have in common: the routes, the cleanup, and the reports to the runner on stdout.

import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'

/**
 * From the runner. `delay`: how long to continue serving after SIGTERM. `limit`: how long requests, or the whole shutdown if the package
 * has only one limit, may take. `instances`: how many. `http2`, `webSocket`, `cleanupHangs`: required by some questions.
 */
export const settings = JSON.parse(process.env.SETTINGS)

/** Reports to the runner. Synchronous, because the process may be about to exit. */
function say (event, details = {}) {
  writeSync(1, `${JSON.stringify({ event, ...details })}\n`)
}

let release
const released = new Promise(resolve => { release = resolve })
process.on('message', release)
// The runner's channel must not keep the process running.
process.channel.unref()

/** Stands for `database.end()`. */
export async function cleanup () {
  say('cleanup')
  if (settings.cleanupHangs) await sleep(2 ** 31 - 1)
}

/** `requestTimeout` is Fastify's closest equivalent of a limit for stalled uploads. */
export const serverOptions = { logger: true, http2: settings.http2, requestTimeout: 1000 }

/** A Fastify instance with the routes. */
export async function createApp () {
  const app = Fastify(serverOptions)
  await addRoutes(app)
  return app
}

export async function addRoutes (app) {
  if (settings.webSocket) await app.register(websocket)

  app.get('/', async () => 'served')
  app.get('/held', async () => {
    say('held')
    await released
    say('handler done')
    return 'held'
  })
  app.get('/early', async (_request, reply) => {
    reply.code(202).send('accepted')
    say('held')
    await released
    say('handler done')
    return reply
  })
  app.get('/endless', async () => {
    say('held')
    await sleep(2 ** 31 - 1)
  })
  app.get('/download', async () => Buffer.alloc(settings.downloadSize))
  app.post('/upload', {
    preParsing: async () => { say('held') }
  }, async () => 'uploaded')
  app.get('/throw', async () => {
    setImmediate(() => { throw new Error('uncaught') })
    return 'throws'
  })
  if (settings.webSocket) {
    app.get('/socket', { websocket: true }, socket => { socket.send('hello') })
  }
}

/** Tells the runner on which ports the application and its readiness probe, if any, listen. */
export function listening (server, probe) {
  const { port } = server.address()
  say('listening', { port, probe: probe && { port, ...probe } })
}

export async function listen (app, probe) {
  await app.listen({ port: 0, host: '127.0.0.1' })
  listening(app.server, probe)
}
