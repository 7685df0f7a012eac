// The service under attack: the built package with short times, or bare Fastify. It sends what it has seen over file descriptor 3.

import type { FastifyInstance } from 'fastify'
import type { Readable } from 'node:stream'
import type * as plugin from '../../index.ts'
import { subscribe } from 'node:diagnostics_channel'
import { readFileSync, writeSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import Fastify from 'fastify'

/** What it sends. Times are milliseconds since 1970, from a clock that does not step. */
export interface Seen {
  port?: number
  /** How many requests hooks have admitted, by the phase of the shutdown. */
  admitted?: Record<string, number>
  /** How many of those were hidden in the body of another request. */
  smuggled?: number
  /** When each phase began. */
  phases?: Record<string, number>
  /** Milliseconds by which its event loop was late, at most. */
  late?: number
}

const { PLUGIN = '', OPTIONS = '{}', PROTOCOL = '', TLS = '' } = process.env

const send = (seen: Seen): void => { writeSync(3, `${JSON.stringify(seen)}\n`) }
const time = (): number => Math.round(performance.timeOrigin + performance.now())

const lag = monitorEventLoopDelay()
lag.enable()
const tls = TLS === '' ? {} : { https: { key: readFileSync(`${TLS}/key.pem`), cert: readFileSync(`${TLS}/cert.pem`) } }
const app = Fastify({
  logger: { level: 'warn' }, ...tls, ...PROTOCOL === 'h2c' ? { http2: true } : {}
} as object) as unknown as FastifyInstance

const admitted: Record<string, number> = {}
const phases: Record<string, number> = {}
let smuggled = 0

if (PLUGIN !== '') {
  const { default: gracefulPlugin } = await import(PLUGIN) as typeof plugin
  await app.register(gracefulPlugin, JSON.parse(OPTIONS) as plugin.GracefulOptions)
  app.registerShutdownCallback(() => {}, { name: 'cleanup' })
  subscribe('fastify-graceful:phase', message => { phases[(message as { phase: string }).phase] = time() })
} else {
  process.on('SIGTERM', () => { process.exit() })
  app.get('/health', async () => 'healthy')
  app.get('/ready', async () => 'ready')
}
// After the plugin's hook, so that it counts what that has let through.
app.addHook('onRequest', async () => {
  const phase = PLUGIN === '' ? 'running' : app.gracefulShutdown.phase
  admitted[phase] = (admitted[phase] ?? 0) + 1
})
app.addContentTypeParser('application/octet-stream', (_request, payload: Readable, done) => { done(null, payload) })

app.get('/', async () => 'served')
app.get('/large', async () => Buffer.alloc(256 * 1024))
app.post('/json', async () => 'parsed')
app.post('/upload', async ({ body }) => {
  let bytes = 0
  for await (const chunk of body as Readable) bytes += (chunk as Buffer).length
  return { bytes }
})
app.get('/smuggled', async () => {
  smuggled++
  return 'smuggled'
})

process.on('exit', () => { send({ admitted, smuggled, phases, late: Math.round(lag.max / 1e6) }) })
await app.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
send({ port: (app.server.address() as { port: number }).port })
