import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'
import type { DiagnosticsChannels } from '../index.ts'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp, createServer as createTcpServer } from 'node:net'
import { Duplex, PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { ACCEPT_BACKLOG, LINGERING_CLOSE } from '../lib/times.ts'
import { createCredentials } from './credentials.ts'
import {
  createApp, Deferred, eventually, HANDSHAKE, heldRoute, heldShutdown, listen, phaseBegins, RawClient, socketPath, visit
} from './helpers.ts'

async function secureApp (t: Test, options: object = {}, tls: object = {}): Promise<FastifyInstance> {
  const { key, cert } = await createCredentials()
  const app = Fastify({ https: { key, cert, ...tls }, ...options }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  return app
}

const secureClient = (port: number): RawClient => new RawClient(connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }))

t.test('HTTPS: answers requests in flight and does not wait for a handshake that never starts or ends', async t => {
  const app = await secureApp(t)
  const held = heldRoute(app)
  const port = await listen(app)
  const client = secureClient(port).get('/held')
  const silent = new RawClient(port)
  const half = new RawClient(connectTcp(port, '127.0.0.1')).send('\x16\x03\x01')
  await held.entered
  const idle = secureClient(port)
  await once(idle.socket, 'secureConnect')
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await Promise.all([client, silent, half, idle].map(async ({ closed }) => { await closed }))
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
  const { phases, completed, exitCode } = await report
  t.match({ completed, exitCode }, { completed: 1, exitCode: 0 })
  t.ok(phases.closing < 300, `closing took ${phases.closing}ms`)
})

const ALERT = 21

/** The types of the TLS 1.2 records that a service sends through a relay, whose port is returned. */
async function relay (t: Test, to: number, types: number[]): Promise<number> {
  const server = createTcpServer(client => {
    const sent: Buffer[] = []
    const service = connectTcp(to, '127.0.0.1').on('data', chunk => { sent.push(chunk) })
    service.on('close', () => {
      const bytes = Buffer.concat(sent)
      for (let at = 0; at < bytes.length; at += 5 + bytes.readUInt16BE(at + 3)) types.push(bytes.readUInt8(at))
    })
    client.on('error', () => {}).pipe(service.on('error', () => {})).pipe(client)
  })
  t.teardown(() => { server.close() })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}

t.test('HTTPS: close_notify follows a 503, so that the response is not taken as truncated', async t => {
  const app = await secureApp(t, {}, { maxVersion: 'TLSv1.2' })
  const held = heldRoute(app)
  const types: number[] = []
  const port = await listen(app)
  const through = await relay(t, port, types)
  const busy = secureClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const client = secureClient(through).get('/held')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503 /)
  await eventually(() => types.length > 0)
  t.equal(types.at(-1), ALERT)
  held.release()
  await busy.closed
  t.match(await report, { completed: 1, refused: 1, exitCode: 0 })
})

t.test('a stream with its own destroy function is destroyed by it', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  await listen(app)
  const served = new Deferred()
  const destroyed = new Deferred()
  const stream = new Duplex({
    read () {},
    write (_chunk, _encoding, done) {
      served.resolve()
      done()
    },
    destroy (_error, done) {
      destroyed.resolve()
      done(null)
    }
  })
  app.server.emit('connection', stream)
  stream.push('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await served.promise
  t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 })
  await destroyed.promise
})

for (const [what, tls, options] of [['HTTPS', true, {}], ['HTTP/2 over TLS', true, { http2: true }], ['HTTP/2', false, { http2: true }]] as const) {
  t.test(`${what}: a silent connection injected through the event is destroyed, and Fastify is closed`, async t => {
    const app = tls ? await secureApp(t, options) : Fastify(options) as unknown as FastifyInstance
    if (!tls) await app.register(gracefulPlugin)
    let isClosed = false
    app.addHook('onClose', async () => { isClosed = true })
    await listen(app)
    const silent = createTcpServer()
    t.teardown(() => { silent.close() })
    await once(silent.listen(0, '127.0.0.1'), 'listening')
    const handed = connectTcp((silent.address() as AddressInfo).port, '127.0.0.1')
    await once(handed, 'connect')
    const gone = once(handed, 'close')
    app.server.emit('connection', handed)
    t.match(await app.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
    t.ok(isClosed)
    await gone
  })
}

for (const protocol of ['HTTPS', 'HTTP/2']) {
  t.test(`${protocol} on a Unix socket: a handshake that never starts does not delay the shutdown if an idle connection is open`, async t => {
    const path = socketPath(t)
    const app = await secureApp(t, protocol === 'HTTP/2' ? { http2: true } : {})
    await app.listen({ path })
    const idle = connectTls({ path, rejectUnauthorized: false, ...protocol === 'HTTP/2' && { ALPNProtocols: ['h2'] } })
    await once(idle, 'secureConnect')
    const silent = new RawClient(path)
    await once(silent.socket, 'connect')
    const closed = [once(idle.resume(), 'close'), silent.closed]
    const { phases } = await app.gracefulShutdown.shutdown()
    await Promise.all(closed)
    t.ok(phases.closing < 900, `closing took ${phases.closing}ms`)
  })
}

for (const [what, options] of [['HTTPS', {}], ['HTTP/2 that allows HTTP/1', { http2: true }]] as const) {
  t.test(`${what}: a WebSocket is closed by its plugin, not destroyed, and an idle connection does not delay the shutdown`, async t => {
    const app = await secureApp(t, options, { allowHTTP1: true })
    await app.register(websocket)
    app.get('/', async () => 'served')
    app.register(async instance => {
      instance.get('/ws', { websocket: true }, socket => {
        socket.on('close', () => { closed = performance.now() })
        socket.send('hello')
      })
    })
    let closed = 0
    const port = await listen(app)
    const idle = secureClient(port).get('/')
    await idle.until(/served/)
    const client = secureClient(port).get('/ws', HANDSHAKE)
    await client.until(/hello/)
    client.text = ''
    const report = app.gracefulShutdown.shutdown()
    await client.until(/\x88\x02\x03\xe9/) // oxlint-disable-line no-control-regex
    t.equal(closed, 0, 'the WebSocket is asked to close')
    // A masked close frame with the same code.
    client.socket.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]))
    await Promise.all([client.closed, idle.closed])
    const { exitCode, phases } = await report
    t.equal(exitCode, 0)
    t.ok(phases.closing < 900, `closing took ${phases.closing}ms`)
  })
}

t.test('HTTP/2: streams end, sessions get GOAWAY, and idle sessions are closed', async t => {
  for (const secure of [false, true]) {
    const app = secure ? await secureApp(t, { http2: true }) : Fastify({ http2: true }) as unknown as FastifyInstance
    if (!secure) await app.register(gracefulPlugin)
    const held = heldRoute(app)
    const port = await listen(app)
    const session = connectHttp2(`http${secure ? 's' : ''}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    const idle = connectHttp2(`http${secure ? 's' : ''}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    await once(idle, 'remoteSettings')
    const stream = session.request({ ':path': '/held' })
    let body = ''
    stream.on('data', (chunk: Buffer) => { body += chunk.toString() })
    await held.entered
    const gone = Promise.all([once(session, 'goaway'), once(session, 'close'), once(idle, 'close')])
    const report = app.gracefulShutdown.shutdown()
    held.release()
    await once(stream, 'end')
    t.equal(body, '{"held":true}')
    await gone
    t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  }
})

t.test('HTTP/2: new streams and sessions are rejected while draining', async t => {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  const port = await listen(app)
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  const stream = session.request({ ':path': '/held' })
  stream.resume()
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const late = connectHttp2(`http://127.0.0.1:${port}`)
  const refused = late.request({ ':path': '/held' })
  const [headers] = await once(refused, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  t.equal(headers['retry-after'], '1')
  t.notOk('connection' in headers)
  refused.resume()
  await once(late, 'close')
  const idle = connectHttp2(`http://127.0.0.1:${port}`)
  await once(idle, 'remoteSettings')
  const idleClosed = once(idle, 'close')
  held.release()
  await once(stream, 'end')
  const { phases, ...rest } = await report
  t.match(rest, { refused: 1, completed: 1, exitCode: 0 })
  await idleClosed
  t.ok(phases.closing < 900, `a late, silent connection does not delay it: ${phases.closing}ms`)
})

t.test('a rejected request whose body is still being received has time to get its response', async t => {
  const { app } = await createApp(t, { drainTimeout: 3_000 })
  const held = heldRoute(app)
  app.post('/', async () => 'never')
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const upload = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nab')
  const gone = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nab')
  const other = new RawClient(port).get('/held')
  await other.closed
  gone.socket.destroy()
  held.release()
  await busy.closed
  await phaseBegins(app, 'closing')
  upload.send('cd')
  await upload.closed
  t.match(upload.text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  t.match(await report, { refused: 3, completed: 1, exitCode: 0 })
})

t.test('a connection accepted before the listener closes has a moment to send a request, and gets a 503', async t => {
  for (const waited of [false, true]) {
    const { app, port, client, release, report } = await heldShutdown(t)
    const { client: late } = await visit(app, port)
    if (waited) await sleep(550)
    release()
    await client.closed
    await eventually(() => !app.server.listening)
    if (!waited) late.get('/')
    await late.closed
    t.match(late.text, waited ? /^$/ : /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
    const { phases, exitCode } = await report
    t.ok(exitCode === 0 && phases.closing < 450, `closing took ${phases.closing}ms`)
  }
})

t.test('connections that the kernel has taken while the process was blocked get a 503, also if the time for them is over', async t => {
  const { app, port, client, release, report } = await heldShutdown(t)
  const LATE = 6
  const late: RawClient[] = []
  const block = (message: unknown) => {
    if ((message as DiagnosticsChannels['fastify-graceful:phase']).phase !== 'closing') return
    setImmediate(() => {
      for (let index = 0; index < LATE; index++) late.push(new RawClient(port).get('/'))
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1.2 * ACCEPT_BACKLOG)
    })
  }
  subscribe('fastify-graceful:phase', block)
  t.teardown(() => { unsubscribe('fastify-graceful:phase', block) })
  release()
  await client.closed
  t.equal((await report).refused, LATE)
  t.notOk(app.server.listening)
  for (const each of late) {
    await each.closed
    t.match(each.text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  }
})

t.test('a response of an opted-out route that is still being sent has a moment to be read', async t => {
  const { app } = await createApp(t)
  // More than the kernel keeps, but a busy machine can still read it in a second.
  const size = 6 * 1024 * 1024
  app.get('/export', { config: { gracefulShutdown: false } }, async () => Buffer.alloc(size))
  let unsent = () => 0
  app.server.once('connection', socket => { unsent = () => socket.writableLength })
  const client = new RawClient(await listen(app)).get('/export')
  await client.until(/200 OK/)
  client.socket.pause()
  const report = app.gracefulShutdown.shutdown()
  await eventually(() => !app.server.listening)
  t.ok(unsent() > 0)
  client.socket.resume()
  await client.closed
  t.equal(client.text.length - client.text.indexOf('\r\n\r\n') - 4, size)
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2: a response of an opted-out route that is still being sent has a moment to be read', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  const size = 1024 * 1024
  app.get('/export', { config: { gracefulShutdown: false } }, async () => Buffer.alloc(size))
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':path': '/export' })
  await once(stream, 'response')
  const report = app.gracefulShutdown.shutdown()
  await eventually(() => !app.server.listening)
  // Longer than the time that an idle session has after its GOAWAY.
  await sleep(200)
  let read = 0
  for await (const chunk of stream as AsyncIterable<Buffer>) read += chunk.length
  t.equal(read, size)
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('a rejected upload that never ends is answered, and its connection is closed after a limited number of bytes', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  app.post('/', async () => 'never')
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  void app.gracefulShutdown.shutdown()
  const endless = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n')
  const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(0x100000), Buffer.from('\r\n')])
  let written = 0
  const write = (): void => {
    while (endless.socket.writable && endless.socket.write(chunk)) written += chunk.length
  }
  endless.socket.on('drain', write)
  const start = performance.now()
  write()
  await endless.closed
  const time = performance.now() - start
  // A busy machine may not read so much in that time.
  t.ok(written > 16 * 1024 * 1024 || time >= LINGERING_CLOSE, `${written} bytes in ${Math.round(time)}ms`)
  t.ok(written < 256 * 1024 * 1024, `${written} bytes`)
  held.release()
  await busy.closed
})

t.test('HTTPS: an unfinished handshake beside an upgraded connection that its owner leaves open is closed', async t => {
  const app = await secureApp(t)
  app.server.on('upgrade', (_request: unknown, socket: NodeJS.WritableStream) => { socket.write('HTTP/1.1 101 Switching Protocols\r\n\r\n') })
  const port = await listen(app)
  const upgraded = secureClient(port).send('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n')
  const silent = new RawClient(port)
  await upgraded.until(/101/)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  await Promise.all([upgraded.closed, silent.closed])
})

t.test('while draining, a connection is closed soon after a response has ended that had begun before the shutdown', async t => {
  const { app } = await createApp(t, { drainTimeout: 5_000 })
  const held = heldRoute(app)
  const body = new PassThrough()
  app.get('/begun', async () => body)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  const client = new RawClient(port).get('/begun')
  body.write('begun')
  await Promise.all([held.entered, client.until(/begun/)])
  const report = app.gracefulShutdown.shutdown()
  body.end()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: keep-alive/i)
  t.equal(app.gracefulShutdown.phase, 'draining')
  held.release()
  await busy.closed
  t.match(await report, { completed: 2, exitCode: 0 })
})

t.test('a connection whose stalled upload was answered with 408, and has arrived by the time that this is sent, is closed with it', async t => {
  const { app } = await createApp(t, { readTimeout: 200 })
  const held = heldRoute(app)
  app.post('/', async () => 'never')
  const connected = once(app.server, 'connection') as Promise<[Socket]>
  // A client that does not close its side by itself.
  const client = new RawClient(connectTcp({ port: await listen(app), host: '127.0.0.1', allowHalfOpen: true })).get('/held')
  t.teardown(() => { client.socket.destroy() })
  const [socket] = await connected
  await held.entered
  const request = once(app.server, 'request') as Promise<[IncomingMessage, ServerResponse]>
  client.send('POST / HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhello')
  const [message, response] = await request
  await eventually(() => response.writableEnded)
  const ended = once(message, 'close')
  client.send('world')
  await ended
  const start = performance.now()
  const closed = once(socket, 'close')
  held.release()
  await closed
  t.ok(performance.now() - start < LINGERING_CLOSE / 2, 'at once')
  await client.until(/^HTTP\/1\.1 200 [^]*\{"held":true\}HTTP\/1\.1 408 /)
})
