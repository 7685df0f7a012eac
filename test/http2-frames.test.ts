// HTTP/2: what the plugin answers itself is whole, frame by frame, also if the client is still sending its request.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { ClientHttp2Session, ServerHttp2Session } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { beforeCall } from '../lib/before-call.ts'
import { createApp, createAppBehind, Deferred, eventually, heldRoute, listen, NO_REUSE_PORT } from './helpers.ts'
import { END_STREAM, frameReader, get, reset, START, TYPES } from './http2.ts'

/** More than the window of a stream, so that the client waits in the middle of its upload. */
const UPLOAD = Buffer.alloc(200_000)
const FRAMES = ['DATA', 'HEADERS', 'PRIORITY', 'RST_STREAM']

interface Recorded {
  session: ClientHttp2Session
  /** What the server has sent of each stream, by its number. */
  frames: Record<number, string[]>
  /** The connection to the server. */
  upstream: Socket
}

/** A session over a proxy that records the server's frames. */
async function record (t: Test, port: number, initialWindowSize?: number): Promise<Recorded> {
  const frames: Recorded['frames'] = {}
  const upstream = connect(port, '127.0.0.1')
  const note = frameReader(({ type, flags, stream }) => {
    const name = FRAMES[type]
    const isEnd = (flags & END_STREAM) !== 0 && type !== TYPES.reset
    if (name !== undefined) (frames[stream] ??= []).push(isEnd ? `${name} END_STREAM` : name)
  })
  const proxy = createServer(socket => {
    upstream.on('data', note).on('error', () => { socket.destroy() }).pipe(socket)
    socket.on('error', () => { upstream.destroy() }).pipe(upstream)
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  const settings = initialWindowSize === undefined ? {} : { initialWindowSize }
  const session = connectHttp2(`http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, { settings })
  session.on('error', () => {})
  t.teardown(() => {
    session.destroy()
    upstream.destroy()
    proxy.close()
  })
  await once(session, 'remoteSettings')
  return { session, frames, upstream }
}

/** A route for uploads that are never read. */
function routeUnread (app: FastifyInstance): void {
  app.post('/', { preParsing: async (_request, { raw }) => { await once(raw, 'close') } }, async () => 'never')
}

/** Sends an upload, and resolves to the status and the body of its response. */
async function upload (session: ClientHttp2Session): Promise<{ status: unknown, body: string }> {
  const stream = session.request({ ':method': 'POST', ':path': '/', 'content-type': 'application/octet-stream' })
  stream.on('error', () => {})
  stream.end(UPLOAD)
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  return { status: headers[':status'], body: await text(stream) }
}

/** A response, to its end. Then the server refuses the rest of the upload, unless it has closed the connection by then. */
const WHOLE = ['HEADERS', 'DATA', 'DATA END_STREAM']

t.test('an upload that is cut by writeTimeout before it is read gets the end of its response', async t => {
  const { app } = await createApp(t, { writeTimeout: 200 }, { http2: true } as object)
  routeUnread(app)
  const { session, frames } = await record(t, await listen(app))
  t.match(await upload(session), { status: 503, body: /FST_ERR_GRACEFUL_WRITE_TIMEOUT/ })
  await eventually(() => frames[1]?.at(-1) === 'RST_STREAM')
  t.strictSame(frames[1]?.slice(0, -1), WHOLE)
})

t.test('an upload that is rejected while draining, or cut at the drain timeout, gets the end of its response', async t => {
  const { app } = await createApp(t, { drainTimeout: 2_000 }, { http2: true } as object)
  routeUnread(app)
  const port = await listen(app)
  const held = await record(t, port)
  const cut = upload(held.session)
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  const late = await record(t, port)
  t.match(await upload(late.session), { status: 503, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await cut, { status: 503, body: /FST_ERR_GRACEFUL_DRAIN_TIMEOUT/ })
  await report
  for (const { frames } of [held, late]) t.strictSame(frames[1]?.slice(0, WHOLE.length), WHOLE)
})

t.test('an upload that is cut gets the end of its response although its client pauses reading meanwhile', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 1_000 }, { http2: true } as object)
  const large = 64 * 2 ** 20
  app.get('/large', { config: { gracefulShutdown: { writeTimeout: false } } }, async () => Buffer.alloc(large))
  routeUnread(app)
  const { session, frames, upstream } = await record(t, await listen(app), 2 ** 30)
  session.setLocalWindowSize(2 ** 30)
  // First, because Node 24 reads nothing more from a client that does not read.
  const answer = upload(session)
  await eventually(() => app.inFlightRequests === 1)
  const stream = session.request({ ':path': '/large' }).resume()
  await once(stream, 'data')
  upstream.pause()
  await log.line(/^Request cut/)
  upstream.resume()
  t.match(await answer, { status: 503, body: /FST_ERR_GRACEFUL_WRITE_TIMEOUT/ })
  await eventually(() => frames[1]?.at(-1) === 'RST_STREAM')
  t.equal(frames[1]?.at(-2), 'DATA END_STREAM')
  if (!stream.closed) await once(stream, 'close')
})

for (const reusePort of [false, true]) {
  for (const isHeld of [false, true]) {
    const how = `${isHeld ? 'held by a hook until its client has reset it; ' : ''}reusePort: ${reusePort}`
    t.test(`a stream that GOAWAY does not name is not served, because its client sends it again; ${how}`, { skip: reusePort && NO_REUSE_PORT }, async t => {
      const released = new Deferred()
      let closed: Promise<unknown> | undefined
      const app = await createAppBehind(t, parent => {
        parent.addHook('onRequest', async ({ url, raw }) => {
          if (!isHeld || url !== '/next') return
          closed = once(raw, 'close')
          await released.promise
        })
      }, { http2: true })
      const held = heldRoute(app)
      let served = 0
      app.get('/next', async () => {
        served++
        return 'next'
      })
      await app.listen({ port: 0, host: '127.0.0.1', reusePort } as object)
      const client = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
      const named: number[] = []
      client.on('data', frameReader(({ type, payload }) => { if (type === TYPES.goaway) named.push(payload.readUInt32BE(0)) }))
      app.server.on('session', (session: ServerHttp2Session) => {
        // The stream arrives after GOAWAY has been queued, and before it is sent.
        beforeCall(session, 'goaway', () => { client.write(get(3, '/next')) })
      })
      client.write(Buffer.concat([START, get(1, '/held')]))
      await held.entered
      const report = app.gracefulShutdown.shutdown()
      await eventually(() => named.length > 0)
      // Node 26 sends GOAWAY before the stream arrives, and ignores it.
      client.write(reset(3))
      await closed
      released.resolve()
      await new Promise(resolve => { setImmediate(resolve) })
      held.release()
      await once(client, 'close')
      t.ok(named.every(stream => stream === 1))
      t.equal(served, 0)
      t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
      t.equal(app.inFlightRequests, 0)
    })
  }
}
