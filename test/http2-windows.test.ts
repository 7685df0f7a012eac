// HTTP/2: whether a stream makes progress depends on that stream only, whatever else its session does.

import t from 'tap'
import type { Test } from 'tap'
import type { ClientHttp2Session, ClientHttp2Stream, Http2ServerResponse } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { TestApp } from './helpers.ts'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { HTTP2_READ_PAUSE } from '../lib/times.ts'
import { createApp, Deferred, eventually, every, heldRoute, listen, RawClient } from './helpers.ts'
import { frameReader, get, START, TYPES } from './http2.ts'

const WRITE_TIMEOUT = 600
const SIZE = 300_000
const STEP = 5_000
const SLOW_SIZE = 15 * STEP

interface Windows extends TestApp {
  session: ClientHttp2Session
  /** Requests a response that is not read. */
  stuck: () => { stream: ClientHttp2Stream, closedAfter: Promise<number> }
}

/** A session whose streams each have a window of this many bytes, and a large one together. */
async function startWindows (t: Test, initialWindowSize: number): Promise<Windows> {
  const { app, log } = await createApp(t, { writeTimeout: WRITE_TIMEOUT, drainTimeout: 10_000 }, { http2: true } as object)
  app.get('/large', async () => Buffer.alloc(SIZE))
  app.get('/slow', async () => Readable.from(Array.from({ length: SLOW_SIZE / STEP }, () => Buffer.alloc(STEP))))
  app.get('/hang', async (_request, { raw }) => { await new Promise(resolve => { raw.on('close', resolve) }) })
  app.get('/begun', async (_request, { raw }) => Readable.from((async function * () {
    yield 'first'
    await new Promise(resolve => { raw.on('close', resolve) })
  })()))
  const directory = t.testdir({ file: Buffer.alloc(SLOW_SIZE) })
  app.get('/file', async (_request, reply) => {
    const { stream } = reply.raw as unknown as Http2ServerResponse
    stream.respondWithFile(join(directory, 'file'))
    return reply
  })
  app.get('/feed', async (_request, reply) => {
    reply.hijack()
    const { raw } = reply
    raw.writeHead(200, { 'content-type': 'application/x-ndjson' })
    raw.write('1\n')
    await sleep(3 * WRITE_TIMEOUT)
    raw.end('2\n')
  })
  app.get('/quick', async () => 'quick')
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`, { settings: { initialWindowSize } })
  session.on('error', () => {})
  session.on('connect', () => { session.setLocalWindowSize(2 ** 24) })
  t.teardown(() => { session.destroy() })
  const stuck: Windows['stuck'] = () => {
    const start = performance.now()
    const stream = session.request({ ':path': '/large' })
    stream.on('error', () => {})
    return { stream, closedAfter: new Promise(resolve => { stream.on('close', () => { resolve(performance.now() - start) }) }) }
  }
  return { app, log, session, stuck }
}

/** What keeps the session active. */
const activities: Record<string, (session: ClientHttp2Session) => void> = {
  'nothing else': () => {},
  PINGs: session => { session.ping(() => {}) },
  'other streams': session => { session.request({ ':path': '/quick' }).on('error', () => {}).resume() },
  'streams that are large': session => { session.request({ ':path': '/large' }).on('error', () => {}).resume() }
}

for (const [what, act] of Object.entries(activities)) {
  t.test(`a stream whose window never opens is cut by writeTimeout, with ${what} on its session`, async t => {
    const { app, log, session, stuck } = await startWindows(t, 1_000)
    const stop = every(t, 100, () => { if (!session.closed) act(session) })
    const streams = Array.from({ length: 5 }, stuck)
    const times = await Promise.all(streams.map(async ({ closedAfter }) => await closedAfter))
    stop()
    for (const time of times) t.ok(time >= WRITE_TIMEOUT * 0.9 && time < WRITE_TIMEOUT * 4, `cut after ${Math.round(time)}ms`)
    const named = log.lines.filter(({ code }) => code === 'FST_ERR_GRACEFUL_WRITE_TIMEOUT')
    t.strictSame(named.map(({ url }) => url), Array.from({ length: 5 }, () => '/large'))
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

for (const path of ['/hang', '/begun']) {
  for (const [what, act] of Object.entries(activities)) {
    t.test(`a handler that hangs (${path}) is cut by writeTimeout, with ${what} on its session`, async t => {
      const { app, log, session } = await startWindows(t, 2 ** 16)
      const stop = every(t, 100, () => { if (!session.closed) act(session) })
      const stream = session.request({ ':path': path }).on('error', () => {})
      const closed = new Promise(resolve => { stream.resume().on('close', resolve) })
      t.match(await log.line(/^Request cut/), { code: 'FST_ERR_GRACEFUL_WRITE_TIMEOUT', url: path })
      await closed
      stop()
      await eventually(() => app.inFlightRequests === 0)
    })
  }
}

for (const path of ['/slow', '/file']) {
  t.test(`a stream that is read slowly but steadily (${path}) is not cut`, async t => {
    const { app, log, session } = await startWindows(t, STEP)
    const stream = session.request({ ':path': path }).pause()
    stream.on('error', () => {})
    let read = 0
    const start = performance.now()
    // Opens a window each 100 ms. The whole response takes longer than writeTimeout, each write does not.
    every(t, 100, () => {
      const chunk = stream.read(Math.min(STEP, stream.readableLength)) as Buffer | null
      read += chunk?.length ?? 0
    })
    await eventually(() => read === SLOW_SIZE || stream.destroyed)
    t.equal(read, SLOW_SIZE)
    t.ok(performance.now() - start > 2 * WRITE_TIMEOUT, `read for ${Math.round(performance.now() - start)}ms`)
    t.strictSame(log.messages(/^Request cut/), [])
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('a stream whose window never opens is cut while draining, and named', async t => {
  const { app, session, stuck } = await startWindows(t, 1_000)
  every(t, 100, () => { if (!session.closed) session.ping(() => {}) })
  const { closedAfter } = stuck()
  await eventually(() => app.inFlightRequests === 1)
  const report = await app.gracefulShutdown.shutdown()
  await closedAfter
  t.match(report, { cut: [{ url: '/large' }], completed: 0, exitCode: 1 })
  t.ok(report.phases.draining < 4 * WRITE_TIMEOUT, `drained for ${report.phases.draining}ms`)
})

t.test('a hijacked reply that pauses is not cut', async t => {
  const { log, session } = await startWindows(t, 2 ** 16)
  const stream = session.request({ ':path': '/feed' }).on('error', () => {})
  let text = ''
  stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
  await once(stream, 'end')
  t.equal(text, '1\n2\n')
  t.strictSame(log.messages(/^Request cut/), [])
})

const SLOW_LINK_SIZE = 16_000_000

/** A frame that opens the window of the session by one byte. */
const WINDOW_UPDATE = Buffer.from([0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1])

/**
 * A TCP proxy over which responses pass slowly, as over a slow link, each part of them with a window update of the client. More is on the
 * way than the kernel has received from the service, as with a client whose receive buffer is small.
 */
async function slowLink (t: Test, port: number): Promise<number> {
  const proxy = createServer(client => {
    const server = connect(port, '127.0.0.1').on('error', () => {})
    client.on('error', () => {}).pipe(server)
    const timer = setInterval(() => {
      // Not before the client's first frames.
      if (server.bytesRead > 100_000) server.write(WINDOW_UPDATE)
      const chunk = server.read() as Buffer | null
      if (chunk !== null) client.write(chunk)
    }, 15)
    server.on('close', () => { clearInterval(timer); client.end() })
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => { proxy.close() })
  return (proxy.address() as AddressInfo).port
}

for (const trigger of ['shutdown', 'close'] as const) {
  t.test(`${trigger}(): a client on a slow link, which opens its window while it reads, gets its whole response`, async t => {
    const { app } = await createApp(t, {}, { http2: true } as object)
    const sent = new Deferred()
    app.get('/', async (_request, reply) => {
      reply.raw.on('finish', () => { sent.resolve() })
      return Buffer.alloc(SLOW_LINK_SIZE)
    })
    const port = await slowLink(t, await listen(app))
    const session = connectHttp2(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: 2 ** 25 } }).on('error', () => {})
    t.teardown(() => { session.destroy() })
    await once(session, 'connect')
    session.setLocalWindowSize(2 ** 25)
    const stream = session.request({ ':path': '/' }).on('error', () => {})
    let received = 0
    stream.on('data', (chunk: Buffer) => { received += chunk.length })
    const closed = once(stream, 'close')
    await sent.promise
    const ended = trigger === 'shutdown' ? app.gracefulShutdown.shutdown() : app.close()
    t.ok(received < SLOW_LINK_SIZE, 'the kernel has the rest')
    await closed
    t.equal(received, SLOW_LINK_SIZE)
    await ended
    t.match(await app.gracefulShutdown.wait(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })
}

t.test('a session that begins while draining, and sends no request, does not delay the shutdown', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port)
  busy.socket.write(Buffer.concat([START, get(1, '/held')]))
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const idle = new RawClient(port)
  const settings = new Deferred()
  idle.socket.on('data', frameReader(({ type }) => { if (type === TYPES.settings) settings.resolve() }))
  idle.socket.write(START)
  await settings.promise
  held.release()
  const { time, exitCode } = await report
  t.ok(time < HTTP2_READ_PAUSE, `took ${time}ms`)
  t.equal(exitCode, 0)
})
