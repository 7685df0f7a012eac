// The service under test. It reads the scenario from stdin, and writes its trace to file descriptor 3. play.ts bundles it with the
// built package, because it is started thousands of times.

import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { ReportFacts, StepKind, TraceEvent } from './trace.ts'
import type { Hook, Instance, Protocol, Scenario, Step, Work } from './scenario.ts'
import { subscribe } from 'node:diagnostics_channel'
import { readFileSync, writeSync } from 'node:fs'
import { PassThrough, Readable, pipeline } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { type DiagnosticsChannels, type ShutdownReport, gracefulPlugin } from '../../index.ts'
import { watchLag } from './lag.ts'
import { answerOf, workOf } from './scenario.ts'
import { INHERITED } from '../inherited.ts'
import { monotonic } from './trace.ts'

type Untimed<E> = E extends TraceEvent ? Omit<E, 't'> : never

/** How many parts a stream has. */
const CHUNKS = 5

const { scenario, tls } = JSON.parse(readFileSync(0, 'utf8')) as { scenario: Scenario, tls: { key: string, cert: string } }
const apps: FastifyInstance[] = []

function trace (event: Untimed<TraceEvent>): void {
  writeSync(3, `${JSON.stringify({ t: monotonic(), ...event })}\n`)
}

/** A step that ends as it is told, and says so. */
async function take (i: number, of: StepKind, name: string, { ms, ends }: Step): Promise<void> {
  trace({ e: 'step', i, of, name, ms })
  if (ms > 0) await sleep(ms)
  if (ends === 'never') await new Promise(() => {})
  trace({ e: 'stepped', i, of, name, isFailed: ends === 'badly' })
  if (ends === 'badly') throw new Error(`${name} fails on purpose`)
}

function observe (i: number, app: FastifyInstance): void {
  const on = <C extends keyof DiagnosticsChannels>(channel: C, tell: (message: DiagnosticsChannels[C]) => void): void => {
    subscribe(channel, message => {
      if ((message as DiagnosticsChannels[C]).fastify === app) tell(message as DiagnosticsChannels[C])
    })
  }
  on('fastify-graceful:phase', ({ phase, reason }) => { trace({ e: 'phase', i, phase, reason, count: app.inFlightRequests }) })
  on('fastify-graceful:refused', ({ entry }) => { trace({ e: 'refused', i, url: entry.url }) })
  on('fastify-graceful:cut', ({ entry, code }) => { trace({ e: 'cut', i, entry, code }) })
  on('fastify-graceful:report', ({ report }) => { trace({ e: 'report', i, report: factsOf(report), count: app.inFlightRequests }) })
  app.server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const { url = '', method = '' } = request
    trace({ e: 'arrived', i, url, method })
    response.on('finish', () => { trace({ e: 'sent', i, url, status: response.statusCode }) })
  })
}

function factsOf (report: ShutdownReport): ReportFacts {
  return {
    ...report,
    errors: report.errors.map(({ message }) => message),
    callbacks: report.callbacks.map(({ error, ...rest }) => error === undefined ? rest : { ...rest, error: error.message })
  }
}

function addHook (i: number, app: FastifyInstance, { name, ms, pipes }: Hook): void {
  // The types of the hooks have nothing in common.
  const hook = async (...[{ url }, , payload]: [FastifyRequest, unknown, unknown]): Promise<unknown> => {
    if (!url.startsWith('/work/')) return payload
    trace({ e: 'hook', i, url, name })
    await sleep(ms)
    trace({ e: 'hooked', i, url, name })
    // Fastify's parser reports what goes wrong.
    return pipes === true ? pipeline(payload as Readable, new PassThrough(), () => {}) : payload
  }
  app.addHook(name as 'onSend', hook)
}

/** The handler of all requests but probes. Returns a promise, the reply, or nothing. */
function handle (i: number, work: Work, request: FastifyRequest, reply: FastifyReply): unknown {
  const { url } = request
  const body = answerOf(url, work)
  trace({ e: 'handler', i, url })
  const done = (): void => { trace({ e: 'handled', i, url }) }
  reply.type('application/json')
  switch (work.answers) {
  case 'return': return sleep(work.ms).then(() => { done(); return body })
  case 'reply': return sleep(work.ms).then(async () => { void reply.send(body); await sleep(work.after); done(); return reply })
  case 'callback':
    setTimeout(() => { done(); void reply.send(body) }, work.ms)
    return undefined
  case 'stream': {
    done()
    trace({ e: 'hook', i, url, name: 'stream' })
    return reply.send(Readable.from(chunksOf(body, work.ms)).on('close', () => { trace({ e: 'hooked', i, url, name: 'stream' }) }))
  }
  case 'raw':
    reply.hijack()
    return writeRaw(reply, body, work.ms).finally(done)
  default: return sleep(work.ms).then(() => { done(); throw new Error('handler fails on purpose') })
  }
}

async function * chunksOf (body: string, ms: number): AsyncGenerator<string> {
  const size = Math.ceil(body.length / CHUNKS)
  for (let at = 0; at < body.length; at += size) {
    yield body.slice(at, at + size)
    await sleep(ms / CHUNKS)
  }
}

async function writeRaw ({ raw }: FastifyReply, body: string, ms: number): Promise<void> {
  raw.writeHead(200, { 'content-type': 'application/json' })
  for await (const chunk of chunksOf(body, ms)) {
    if (raw.destroyed) return
    raw.write(chunk)
  }
  raw.end()
}

const SERVERS: Record<Protocol, object> = {
  http: {},
  https: { https: tls },
  h2c: { http2: true },
  h2: { http2: true, https: { ...tls, allowHTTP1: true } }
}

async function start (i: number, instance: Instance): Promise<void> {
  const { shutdownDelay, spread = 0, drainTimeout, shutdownTimeout, ahead, hooks, preClose, onClose, callbacks, tasks } = instance
  const app = Fastify({ ...SERVERS[scenario.protocol] as FastifyServerOptions, logger: { name: `instance ${i}` } })
  apps.push(app)
  if (ahead === 0) app.addHook('onRequest', (_request, _reply, done) => { done() })
  if (ahead !== undefined && ahead > 0) app.addHook('onRequest', async () => { await sleep(ahead) })
  await app.register(gracefulPlugin, { shutdownDelay, spread, drainTimeout, shutdownTimeout })
  if (scenario.clients.some(({ kind }) => kind === 'websocket')) {
    await app.register(websocket)
    app.get('/websocket', { websocket: true }, socket => {
      trace({ e: 'websocket', i })
      socket.on('message', (data: Buffer) => {
        trace({ e: 'message', i })
        socket.send(String(data))
      })
    })
  }
  for (const hook of hooks) addHook(i, app, hook)
  const handler = (request: FastifyRequest, reply: FastifyReply): unknown =>
    handle(i, workOf(scenario, request.url) as Work, request, reply)
  app.get('/work/:name', handler)
  app.post('/work/:name', handler)
  app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, async (_request: unknown, body: Buffer) => body)
  for (const [index, step] of preClose.entries()) app.addHook('preClose', async () => { await take(i, 'preClose', `preClose ${index}`, step) })
  for (const [index, step] of onClose.entries()) app.addHook('onClose', async () => { await take(i, 'onClose', `onClose ${index}`, step) })
  for (const [index, { when, timeout, ...step }] of callbacks.entries()) {
    const name = `${when} ${index}`
    const options = timeout === undefined ? { name, when } : { name, when, timeout }
    app.gracefulShutdown.onShutdown(async () => { await take(i, 'callback', name, step) }, options)
  }
  const listener: object = scenario.isInherited === true && i === 0 ? { fd: INHERITED } : { port: 0, host: '127.0.0.1' }
  await app.listen(listener)
  observe(i, app)
  for (const [index, { at, ...step }] of tasks.entries()) {
    setTimeout(() => {
      const name = `task ${index}`
      app.gracefulShutdown.track(take(i, 'task', name, step), name).catch(() => {})
    }, at)
  }
  trace({ e: 'listening', i, port: (app.server.address() as AddressInfo).port })
}

/** Code that closes instances also ends the process, once all of them are closed. */
async function close (way: 'close' | 'shutdown', only?: number): Promise<void> {
  const closing = only === undefined ? apps : apps.slice(only, only + 1)
  await Promise.allSettled(closing.map(async app => { await (way === 'close' ? app.close() : app.gracefulShutdown.shutdown('on purpose')) }))
  const reports = await Promise.all(apps.map(async app => await app.gracefulShutdown.wait()))
  process.exitCode ||= Math.max(...reports.map(({ exitCode }) => exitCode))
  process.exit()
}

const triggers: Record<string, (only?: number) => void> = {
  close: only => { void close('close', only) },
  shutdown: only => { void close('shutdown', only) },
  throw: () => { throw new Error('uncaught on purpose') },
  reject: () => { void Promise.reject(new Error('unhandled on purpose')) }
}

for (const [i, instance] of scenario.instances.entries()) await start(i, instance)
for (const { at, kind, only } of scenario.triggers) {
  const pull = triggers[kind]
  if (pull === undefined) continue
  setTimeout(() => {
    trace({ e: 'trigger', kind })
    pull(only)
  }, at)
}

const lags = watchLag()
process.on('warning', ({ message }) => { trace({ e: 'warning', text: message }) })
process.on('exit', code => {
  trace({ e: 'exit', code, lags: lags() })
})
