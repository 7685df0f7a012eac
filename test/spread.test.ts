// `spread`: WebSockets, event streams and HTTP/2 sessions are told to go one after another.

import t from 'tap'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { ClientHttp2Session } from 'node:http2'
import type { Test } from 'tap'
import type { GracefulOptions, ShutdownReport } from '../types/index.ts'
import type { TestApp } from './helpers.ts'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { text } from 'node:stream/consumers'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { WebSocket } from 'undici'
import gracefulPlugin from '../index.ts'
import { createApp, Deferred, heldRoute, listen, NO_REUSE_PORT, phaseBegins, RawClient } from './helpers.ts'

interface Client {
  code: number | undefined
  /** When it was told to go, on the clock of performance.now(). */
  told: Promise<number>
}

const SPREAD = 2_000
const CLIENTS = 40

interface Service extends TestApp {
  /** How many WebSockets and event streams had not been ended when the preClose hooks ran. */
  leftAtPreClose: number | undefined
}

/** Serves WebSockets, event streams that the plugin ends, and `/`. */
async function createService (t: Test, options: GracefulOptions, server: FastifyServerOptions & object = {}): Promise<Service> {
  const { app, log } = await createApp(t, options, server)
  const streams: ServerResponse[] = []
  const service: Service = { app, log, leftAtPreClose: undefined }
  app.addHook('preClose', async () => {
    const left = [...app.websocketServer.clients].filter(({ readyState, OPEN }) => readyState === OPEN)
    service.leftAtPreClose = left.length + streams.filter(({ writableEnded }) => !writableEnded).length
  })
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  app.get('/events', { config: { gracefulShutdown: { onShutdown: 'end' } } }, (_request, reply) => {
    streams.push(reply.raw)
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.raw.write('data: hello\n\n')
  })
  app.get('/', async () => app.gracefulShutdown.phase)
  return service
}

async function openWebSocket (port: number): Promise<Client> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`) as unknown as EventTarget
  const told = new Deferred<number>()
  const client: Client = { code: undefined, told: told.promise }
  socket.addEventListener('close', event => {
    client.code = (event as Event & { code: number }).code
    told.resolve(performance.now())
  })
  await once(socket, 'message')
  return client
}

async function openStream (port: number): Promise<Client> {
  const client = new RawClient(port).get('/events')
  await client.until(/hello/)
  const told = client.until(/\r\n0\r\n\r\n/).then(() => performance.now())
  return { code: undefined, told }
}

interface SessionClient extends Client {
  session: ClientHttp2Session
  /** Requests `/`, and resolves to the body, or to the error's message. */
  get: () => Promise<string>
}

async function openSession (t: Test, port: number): Promise<SessionClient> {
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  t.teardown(() => { session.destroy() })
  const told = new Deferred<number>()
  const client: SessionClient = {
    code: undefined,
    told: told.promise,
    session,
    get: async () => await text(session.request({ ':path': '/' })).catch((error: unknown) => (error as Error).message)
  }
  session.on('goaway', code => {
    client.code = code
    told.resolve(performance.now())
  })
  await once(session, 'remoteSettings')
  return client
}

async function openAll<T> (open: () => Promise<T>, count = CLIENTS): Promise<T[]> {
  return await Promise.all(Array.from({ length: count }, open))
}

/** When the clients were told, in ascending order. */
async function toldAfter (start: number, clients: readonly Client[]): Promise<number[]> {
  const times = await Promise.all(clients.map(async ({ told }) => await told))
  return times.map(time => time - start).toSorted((a, b) => a - b)
}

const stalls = monitorEventLoopDelay()
stalls.enable()

/** Starts a shutdown whose clients `assertEven()` checks. */
function shutDown ({ gracefulShutdown }: FastifyInstance): { start: number, report: Promise<ShutdownReport> } {
  stalls.reset()
  return { start: performance.now(), report: gracefulShutdown.shutdown() }
}

/** The clients are told over the whole time, and never many of them at once, unless a busy machine has not let this process run. */
function assertEven (t: Test, times: readonly number[]): void {
  const stalled = stalls.max / 1e6
  if (stalled > SPREAD / 10) {
    t.comment(`The process has not run for ${stalled} ms`)
    return
  }
  const at = (part: number) => times[Math.floor((times.length - 1) * part)] as number
  t.ok(at(0) < SPREAD * 0.4, `the first after ${at(0)} ms`)
  t.ok(at(0.5) > SPREAD * 0.25 && at(0.5) < SPREAD * 0.85, `half of them after ${at(0.5)} ms`)
  t.ok(at(1) > SPREAD * 0.5, `the last after ${at(1)} ms`)
  const most = Math.max(...times.map(start => times.filter(time => time >= start && time < start + SPREAD / 10).length))
  t.ok(most <= times.length / 3, `${most} of ${times.length} in a tenth of the time`)
}

for (const [what, open] of Object.entries({ WebSockets: openWebSocket, 'event streams': openStream })) {
  t.test(`${what} are ended evenly from the start of the shutdown, while the instance still serves`, async t => {
    const { app, log } = await createService(t, { shutdownDelay: 20_000, shutdownTimeout: 60_000, spread: SPREAD })
    const port = await listen(app)
    const clients = await openAll(async () => await open(port))
    const { start, report } = shutDown(app)
    assertEven(t, await toldAfter(start, clients))
    t.equal(app.gracefulShutdown.phase, 'delaying')
    t.strictSame(log.messages(/long-lived/), [`Ending long-lived connections over ${SPREAD}ms: ${CLIENTS} are open`])
    if (what === 'WebSockets') t.ok(clients.every(({ code }) => code === 1001))
    t.equal(await (await fetch(`http://127.0.0.1:${port}/`)).text(), 'delaying')
    app.gracefulShutdown.skipDelay()
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('HTTP/2 sessions get GOAWAY evenly, whether they send requests or not, and newcomers too', async t => {
  const { app } = await createService(t, { shutdownDelay: 20_000, shutdownTimeout: 60_000, spread: SPREAD }, { http2: true } as object)
  const port = await listen(app)
  const clients = await openAll(async () => await openSession(t, port))
  const { start, report } = shutDown(app)
  const newcomer = await openSession(t, port)
  // Requests do not change when a session has its turn. After that, new ones are refused, so that the client opens another session.
  const bodies = await Promise.all([...clients, newcomer].map(async ({ get }) => await get()))
  const served = bodies.filter(body => body === 'delaying').length
  t.ok(served > CLIENTS / 2, `${served} are served`)
  assertEven(t, await toldAfter(start, [...clients, newcomer]))
  t.ok(clients.every(({ code }) => code === 0), 'no error')
  t.equal(app.gracefulShutdown.phase, 'delaying')
  // Once the spread is over, as without it.
  const late = await openSession(t, port)
  t.equal(await late.get(), 'delaying')
  t.equal(late.code, undefined)
  app.gracefulShutdown.skipDelay()
  await late.told
  t.match(await report, { completed: served + 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2 sessions get GOAWAY evenly while draining, also if other processes share the port', { skip: NO_REUSE_PORT }, async t => {
  const { app } = await createService(t, { spread: SPREAD }, { http2: true } as object)
  // Node 20 ignores reusePort, but the plugin does not.
  await app.listen({ port: 0, host: '127.0.0.1', reusePort: true } as object)
  const { port } = app.server.address() as AddressInfo
  const clients = await openAll(async () => await openSession(t, port))
  const { start, report } = shutDown(app)
  // Requests are still served meanwhile.
  t.strictSame(new Set(await Promise.all(clients.slice(CLIENTS / 2).map(async client => await client.get()))), new Set(['draining']))
  assertEven(t, await toldAfter(start, clients))
  t.ok(clients.every(({ code }) => code === 0), 'no error')
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.notOk(app.server.listening)
})

t.test('what opens meanwhile is also told within the time', async t => {
  const { app } = await createService(t, { shutdownDelay: 20_000, shutdownTimeout: 60_000, spread: SPREAD })
  const port = await listen(app)
  const clients = await openAll(async () => await openWebSocket(port))
  const { start, report } = shutDown(app)
  const newcomers = [...await openAll(async () => await openWebSocket(port), 10), await openStream(port)]
  const times = await toldAfter(start, [...clients, ...newcomers])
  assertEven(t, times)
  t.equal(app.gracefulShutdown.phase, 'delaying')
  app.gracefulShutdown.skipDelay()
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('a spread longer than the delay goes on while draining, and preClose hooks wait for its end', async t => {
  const service = await createService(t, { shutdownDelay: 100, spread: SPREAD })
  const { app, log } = service
  const port = await listen(app)
  const clients = [
    ...await openAll(async () => await openWebSocket(port), CLIENTS / 2), ...await openAll(async () => await openStream(port), CLIENTS / 2)
  ]
  const { start, report } = shutDown(app)
  // The progress of the drain, each second, ends no stream early.
  await log.line(/^Waiting for \d+ in-flight requests and long-lived connections to complete/)
  t.equal(service.leftAtPreClose, undefined, 'no preClose hook has run')
  assertEven(t, await toldAfter(start, clients))
  const { phases, completed, cut, exitCode } = await report
  t.strictSame({ completed, cut, exitCode }, { completed: CLIENTS / 2, cut: [], exitCode: 0 })
  t.ok(phases.delaying < SPREAD / 2 && phases.draining > SPREAD / 4, `${phases.delaying} ms, then ${phases.draining} ms`)
  t.equal(service.leftAtPreClose, 0)
})

t.test('HTTP/2: a request that arrives after the delay is refused, and the spread goes on for the other sessions', async t => {
  const { app } = await createService(t, { shutdownDelay: 1, spread: 10_000 }, { http2: true } as object)
  const port = await listen(app)
  const clients = await openAll(async () => await openSession(t, port), 10)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  const last = clients.at(-1) as SessionClient
  const stream = last.session.request({ ':path': '/' })
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  await last.told
  stream.resume()
  const untold = clients.filter(({ code }) => code === undefined).length
  t.ok(untold > 5, `${untold} sessions have not been told`)
  app.gracefulShutdown.skipDelay()
  await toldAfter(0, clients)
  t.match(await report, { refused: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('the drain timeout limits the spread, also if the delay has ended early', async t => {
  const { app } = await createService(t, { shutdownDelay: { max: 10_000, quiet: 1 }, drainTimeout: 300, spread: 10_000 })
  const held = heldRoute(app)
  const port = await listen(app)
  const clients = await openAll(async () => await openWebSocket(port), 20)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = await app.gracefulShutdown.shutdown()
  await toldAfter(0, clients)
  t.ok(clients.every(({ code }) => code === 1001))
  t.ok(report.time < 9_000, `${report.time} ms`)
  t.match(report, { cut: [{ route: '/held' }], exitCode: 1 })
  await busy.closed
  held.release()
})

t.test('event streams that the spread has not told when the drain timeout comes are ended in time', async t => {
  const { app } = await createService(t, { shutdownDelay: { max: 10_000, quiet: 1 }, drainTimeout: 1_000, spread: 10_000 })
  const port = await listen(app)
  const clients = await openAll(async () => await openStream(port), 10)
  const report = await app.gracefulShutdown.shutdown()
  await toldAfter(0, clients)
  t.match(report, { cut: { length: 0 }, completed: 10, exitCode: 0 })
})

t.test('if other code calls the original close(), WebSockets that are left at the drain timeout get 1001', async t => {
  const app = Fastify()
  const close = app.close.bind(app) as () => Promise<void>
  await app.register(gracefulPlugin, { shutdownDelay: { max: 10_000, quiet: 1 }, drainTimeout: 300, spread: 10_000 })
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  const port = await listen(app)
  const clients = await openAll(async () => await openWebSocket(port), 20)
  await close()
  await toldAfter(0, clients)
  t.ok(clients.every(({ code }) => code === 1001))
})

t.test('skipDelay() tells the rest at once', async t => {
  const { app } = await createService(t, { shutdownDelay: 1, spread: 20_000 })
  const port = await listen(app)
  const clients = [...await openAll(async () => await openWebSocket(port), 10), ...await openAll(async () => await openStream(port), 10)]
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  app.gracefulShutdown.skipDelay()
  await toldAfter(0, clients)
  const { time, exitCode } = await report
  t.ok(time < 15_000, `${time} ms`)
  t.equal(exitCode, 0)
})

t.test('skipDelay() before the shutdown, and while its first log lines are written, leaves nothing to spread', async t => {
  for (const isBefore of [true, false]) {
    const { app, log } = await createService(t, { shutdownDelay: 20_000, shutdownTimeout: 60_000, spread: 20_000 })
    const port = await listen(app)
    const clients = await openAll(async () => await openWebSocket(port), 10)
    if (isBefore) app.gracefulShutdown.skipDelay()
    else void log.line(/long-lived/).then(() => { app.gracefulShutdown.skipDelay() })
    const report = app.gracefulShutdown.shutdown()
    await toldAfter(0, clients)
    const { time } = await report
    t.ok(time < 15_000, `${time} ms`)
    t.equal(log.messages(/long-lived/).length, isBefore ? 0 : 1)
  }
})

t.test('with a spread, an instance without long-lived connections takes no longer', async t => {
  const { app, log } = await createService(t, { spread: 20_000 })
  const port = await listen(app)
  const client = new RawClient(port).get('/')
  await client.until(/running/)
  const { time, exitCode } = await app.gracefulShutdown.shutdown()
  t.ok(time < 10_000, `${time} ms`)
  t.equal(exitCode, 0)
  t.strictSame(log.messages(/long-lived/), [])
})

t.test('the spread is over early when nothing is left', async t => {
  const { app } = await createService(t, { spread: 20_000 })
  const port = await listen(app)
  const streams = await Promise.all(Array.from({ length: 5 }, async () => {
    const client = new RawClient(port).get('/events')
    await client.until(/hello/)
    return client
  }))
  const report = app.gracefulShutdown.shutdown()
  for (const { socket } of streams) socket.destroy()
  const { time } = await report
  t.ok(time < 10_000, `${time} ms`)
})

t.test('an instance that does not listen spreads nothing', async t => {
  const { app } = await createService(t, { spread: 20_000 })
  await app.ready()
  const client = await app.injectWS('/ws')
  const closed = once(client, 'close') as Promise<[number]>
  const { time } = await app.gracefulShutdown.shutdown()
  t.equal((await closed)[0], 1001)
  t.ok(time < 10_000, `${time} ms`)
})

t.test('an instance whose server the application itself listens with also waits for the spread', async t => {
  const { app } = await createService(t, { spread: SPREAD })
  await app.ready()
  app.server.listen(0, '127.0.0.1')
  await once(app.server, 'listening')
  const { port } = app.server.address() as { port: number }
  const clients = await openAll(async () => await openWebSocket(port))
  const { start, report } = shutDown(app)
  assertEven(t, await toldAfter(start, clients))
  t.match(await report, { exitCode: 0 })
})

t.test('if close() of a WebSocket throws, the others are closed, and that is reported', async t => {
  const { app } = await createApp(t, { spread: 1_000 })
  await app.register(websocket)
  let isFirst = true
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => {
      if (isFirst) socket.close = () => { throw new Error('close on purpose') }
      isFirst = false
      socket.send('hello')
    })
  })
  const port = await listen(app)
  await openWebSocket(port)
  const clients = await openAll(async () => await openWebSocket(port), 10)
  const report = app.gracefulShutdown.shutdown()
  await toldAfter(0, clients)
  t.match(await report, { errors: [{ message: 'close on purpose' }], exitCode: 1 })
  await t.rejects(app.close(), { message: 'close on purpose' })
})

t.test('without a spread, all are told at once as draining starts', async t => {
  for (const isHttp2 of [true, false]) {
    const { app, log } = await createService(t, { shutdownDelay: 400 }, isHttp2 ? { http2: true } as object : {})
    const port = await listen(app)
    const phases: string[] = []
    const clients = isHttp2
      ? await openAll(async () => await openSession(t, port), 10)
      : [...await openAll(async () => await openWebSocket(port), 5), ...await openAll(async () => await openStream(port), 5)]
    for (const { told } of clients) void told.then(() => { phases.push(app.gracefulShutdown.phase) })
    const report = app.gracefulShutdown.shutdown()
    const times = await toldAfter(0, clients)
    const apart = (times.at(-1) as number) - (times[0] as number)
    t.ok(apart < 2_000, `${apart} ms`)
    t.strictSame(phases.filter(phase => phase === 'delaying'), [])
    t.strictSame(log.messages(/long-lived/), [])
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  }
})
