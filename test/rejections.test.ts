// Rejected requests whose clients still send: uploads, upgrades and pipelines.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Duplex } from 'node:stream'
import { finished } from 'node:stream/promises'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { Channels } from '../lib/lifecycle/channels.ts'
import { Connections } from '../lib/connections/sockets.ts'
import { PhaseClock } from '../lib/lifecycle/phase.ts'
import { Gate } from '../lib/requests/gate.ts'
import { InFlight } from '../lib/requests/in-flight.ts'
import { createApp, createAppBehind, Deferred, eventually, every, fork, heldRoute, heldShutdown, listen, RawClient, visit } from './helpers.ts'

t.test('a rejected upload whose client disconnects is over at once', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  let refused: ServerResponse | undefined
  app.server.prependListener('request', ({ method }: IncomingMessage, response: ServerResponse) => {
    if (method === 'POST') refused = response
  })
  app.post('/', async () => 'never')
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const { client, leave } = await visit(app, port)
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nab')
  await new RawClient(port).get('/held').closed
  const start = performance.now()
  await leave()
  await eventually(() => refused?.writableEnded === true)
  const time = performance.now() - start
  t.ok(time < 3_000, `after ${Math.round(time)}ms, not the seconds of a slow upload`)
  held.release()
  await busy.closed
  t.match(await report, { completed: 1, refused: 2, exitCode: 0 })
})

t.test('a rejected upload that readTimeout has cut is not answered twice', async t => {
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  app.post('/', { config: { gracefulShutdown: { readTimeout: 200 } } }, async () => 'never')
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nab')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 408 [^]*FST_ERR_GRACEFUL_READ_TIMEOUT/)
  held.release()
  await busy.closed
  t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
  t.strictSame(log.messages(/already sent/), [])
})

const TRIES = 100

t.test(`a client that writes all of a rejected upload before it reads gets its 503, ${TRIES} times out of ${TRIES}`, async t => {
  // It drains for as long as all tries may take on a busy machine.
  const service = fork(t, 'service', { LOG_LEVEL: 'warn', OPTIONS: '{"shutdownTimeout":130000,"drainTimeout":120000}' })
  const { port } = await service.log.line(/^ready$/) as unknown as { port: number }
  const busy = new RawClient(port).get('/slow?ms=120000')
  const first = new RawClient(port).get('/')
  await first.until(/served/)
  service.kill('SIGTERM')
  // The signal takes some time; until then, the upload would be rejected as too large.
  for (let last = ''; !last.startsWith('HTTP/1.1 503');) {
    const client = new RawClient(port).get('/', ['Connection: close'])
    await client.closed
    last = client.text
  }
  const upload = Buffer.alloc(8 * 1024 * 1024)
  const lost: string[] = []
  for (let index = 0; index < TRIES; index++) {
    const client = new RawClient(port)
    client.socket.pause()
    client.send(`POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: ${upload.length}\r\n\r\n`)
    const written = new Deferred()
    client.socket.write(upload, () => { written.resolve() })
    await written.promise
    client.socket.resume()
    await client.closed
    const isRefused = /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/.test(client.text)
    if (!isRefused || client.error !== undefined) lost.push(`${index}: ${client.error?.message} ${client.text}`)
  }
  t.strictSame(lost, [])
  busy.socket.destroy()
})

t.test('a rejected upload that trickles endlessly is answered, and closed after some seconds', async t => {
  const { app } = await createApp(t, { readTimeout: false })
  const held = heldRoute(app)
  app.post('/', async () => 'never')
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  void app.close()
  const start = performance.now()
  const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n')
  const stop = every(t, 50, () => { client.send('1\r\nx\r\n') })
  await client.closed
  stop()
  const time = performance.now() - start
  t.match(client.text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  t.ok(time > 4_900 && time < 8_000, `closed after ${Math.round(time)}ms`)
  held.release()
  await busy.closed
})

t.test('a rejected upgrade is answered and closed although its body is still being sent', async t => {
  const { app } = await createApp(t)
  await app.register(websocket)
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const upgrade = ['POST /held HTTP/1.1', 'Host: x', 'Connection: Upgrade', 'Upgrade: websocket', 'Content-Length: 100000', '', 'some']
  const client = new RawClient(port).send(upgrade.join('\r\n'))
  await client.closed
  t.equal(client.error, undefined)
  t.match(client.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN[^]*\}$/)
  held.release()
  await busy.closed
  t.match(await report, { completed: 1, refused: 1, exitCode: 0 })
})

for (const [what, behind] of [
  ['requests', `GET /held HTTP/1.1\r\nHost: x\r\nCookie: ${'c'.repeat(400)}\r\n\r\n`.repeat(300)],
  ['an upload', `POST /held HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 200000\r\n\r\n${'x'.repeat(200_000)}`]
] as const) {
  t.test(`a client that sends more than Node reads at once, ${what} behind a rejected request, reads the 503 and gets no reset`, async t => {
    const { port, client, release, report } = await heldShutdown(t)
    const late = new RawClient(port)
    late.socket.pause()
    late.socket.write(`GET /held HTTP/1.1\r\nHost: x\r\n\r\n${behind}`)
    await eventually(() => late.socket.writableLength === 0)
    await new RawClient(port).get('/held').closed
    late.socket.resume()
    await late.closed
    t.equal(late.error, undefined)
    t.match(late.text, /^HTTP\/1\.1 503 /)
    release()
    await client.closed
    await report
  })
}

t.test('a client behind a stream that is not a socket can read its 503 to the end', async t => {
  const { app, client, release, report } = await heldShutdown(t)
  const sent = new Deferred<string>()
  let text = ''
  const stream = new Duplex({
    read () {},
    write (chunk: Buffer, _encoding, done) {
      text += chunk.toString()
      done()
    },
    final (done) {
      sent.resolve(text)
      done()
    }
  })
  app.server.emit('connection', stream)
  stream.push('GET /held HTTP/1.1\r\nHost: x\r\n\r\n')
  t.match(await sent.promise, /^HTTP\/1\.1 503 [^]*\}$/)
  release()
  await client.closed
  t.match(await report, { refused: 1, exitCode: 0 })
})

t.test('an upload that a hook ahead of the plugin has read is rejected at once', async t => {
  const app = await createAppBehind(t, ahead => {
    ahead.addHook('onRequest', async ({ raw }) => { await finished(raw.resume(), { writable: false }) })
  })
  const { entered, release } = heldRoute(app)
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  const start = performance.now()
  const late = new RawClient(port).send('POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nsome')
  await late.closed
  const time = performance.now() - start
  t.match(late.text, /^HTTP\/1\.1 503 [^]*\}$/)
  t.ok(time < 2_000, `after ${Math.round(time)}ms, not the seconds of a slow upload`)
  release()
  await client.closed
  t.match(await report, { refused: 1, exitCode: 0 })
})

t.test('a rejected upload that still arrives when connections are closed gets its 503, if it reads', async t => {
  const { port, client, release, report } = await heldShutdown(t)
  const late = new RawClient(port).send('POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome')
  await new RawClient(port).get('/held').closed
  t.equal(late.text, '')
  release()
  await client.closed
  await late.closed
  t.equal(late.error, undefined)
  t.match(late.text, /^HTTP\/1\.1 503 [^]*\}$/)
  t.match(await report, { refused: 2, exitCode: 0 })
})

/** A separate gate, without the rest of the plugin. */
function bareGate (app: FastifyInstance): Gate {
  const inFlight = new InFlight(app.log)
  const phase = new PhaseClock()
  const connections = new Connections(inFlight, phase)
  const gate = new Gate(inFlight, new Channels(app))
  connections.adopt(app.server, async () => {})
  connections.disableKeepAlive()
  phase.advance('draining')
  inFlight.stopCounting()
  app.addHook('onRequest', (request, reply, done) => {
    const exchange = inFlight.attach(reply) ?? connections.arrive(request.raw, reply.raw)
    exchange.reply = reply
    if (gate.admits(exchange)) done()
  })
  return gate
}

t.test('while refusals are deferred, no request is answered', async t => {
  const app = Fastify()
  const gate = bareGate(app)
  await app.ready()
  gate.deferRefusals()
  let answered = false
  const answer = app.inject('/').finally(() => { answered = true })
  await eventually(() => gate.refused === 1)
  await new Promise(resolve => { setImmediate(resolve) })
  t.notOk(answered)
  gate.sendRefusals()
  t.equal((await answer).statusCode, 503)
  t.equal((await app.inject('/')).statusCode, 503)
})

t.test('while refusals are deferred, only the last request of each pipeline waits, so that a flood of them does not fill the memory', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  const gate = bareGate(app)
  app.get('/', async () => 'not reached')
  await app.listen({ port: 0, host: '127.0.0.1' })
  gate.deferRefusals()
  const client = new RawClient((app.server.address() as AddressInfo).port).get('/').get('/').get('/')
  const rejections = () => client.text.split('HTTP/1.1 503 ').slice(1)
  await eventually(() => gate.refused === 3 && rejections().length === 2)
  t.notMatch(client.text, /connection: close/i)
  client.get('/')
  await eventually(() => gate.refused === 4 && rejections().length === 3)
  t.notMatch(client.text, /connection: close/i)
  gate.sendRefusals()
  await client.closed
  t.equal(client.error, undefined)
  t.equal(rejections().length, 4)
  t.match(rejections()[3], /connection: close[^]*\}$/i)
})

t.test('an upload that arrives while connections are being closed is rejected before its body is complete', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  const gate = bareGate(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  gate.deferRefusals()
  gate.sendRefusals()
  const client = new RawClient((app.server.address() as AddressInfo).port)
  const start = performance.now()
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome')
  await client.until(/^HTTP\/1\.1 503 [^]*\}$/)
  const time = performance.now() - start
  t.ok(time < 2_000, `after ${Math.round(time)}ms, not the seconds of a slow upload`)
  t.equal(gate.refused, 1)
  client.socket.destroy()
})
