// HTTP/1 pipelines: responses that are ready wait for the one ahead of them. When that request is cut, they are sent.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { GracefulOptions, ShutdownReport } from '../index.ts'
import { createCredentials } from './credentials.ts'
import type { TestApp } from './helpers.ts'
import { once } from 'node:events'
import { Duplex, PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { collect, createApp, Deferred, eventually, heldRoute, heldShutdown, listen, phaseBegins, processorTime, RawClient } from './helpers.ts'

interface Pipeline extends TestApp {
  client: RawClient
  release: () => void
}

/** An instance with a pipeline of these paths: requests to paths that begin with /hang wait, the others are answered at once. */
async function startPipeline (t: Test, paths: readonly string[], options: GracefulOptions, tls?: object): Promise<Pipeline> {
  const { app, log } = await createApp(t, options, tls === undefined ? {} : { https: tls } as object)
  const released = new Deferred()
  let done = 0
  let waiting = 0
  const wait = async (): Promise<string> => {
    waiting++
    await released.promise
    return 'late'
  }
  app.get('/hang', wait)
  app.get('/hang-callback', (_request, reply) => { void wait().then(text => reply.send(text)) })
  app.get('/quick', async () => 'quick')
  app.get('/stream', (_request, reply) => {
    const stream = new PassThrough()
    void reply.send(stream)
    stream.write('begun')
  })
  app.get('/large', async () => 'x'.repeat(1_000_000))
  app.addHook('onSend', async request => { if (!request.url.startsWith('/hang')) done++ })
  const port = await listen(app)
  const client = new RawClient(tls === undefined ? port : connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }))
  client.send(paths.map(path => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`).join(''))
  // No hook runs for a malformed URL.
  await eventually(() => waiting + done === paths.filter(path => path !== '/%zz').length)
  // By now, the responses that are ready have been ended.
  await new Promise(resolve => { setImmediate(resolve) })
  t.teardown(() => {
    released.resolve()
    client.socket.destroy()
  })
  return { app, log, client, release: () => { released.resolve() } }
}

function statuses ({ text }: RawClient): string[] {
  return text.match(/(?<=HTTP\/1\.1 )\d{3}/g) ?? []
}

function cutUrls ({ cut }: ShutdownReport): unknown[] {
  return cut.map(entry => 'url' in entry ? entry.url : entry.name)
}

/** Expects that only the last response says that the connection is closed, because Node drops what follows such a response. */
function onlyLastMayClose (t: Test, client: RawClient): void {
  const heads = client.text.split(/HTTP\/1\.1 (?=\d{3})/).slice(1)
  t.notOk(heads.slice(0, -1).some(head => /^connection: close/im.test(head)))
}

async function waitForNoneInFlight (app: FastifyInstance): Promise<void> {
  await eventually(() => app.inFlightRequests === 0)
}

const orders = [
  ['/hang', '/quick', '/quick'],
  ['/hang-callback', '/quick', '/quick'],
  ['/quick', '/hang', '/quick', '/quick'],
  ['/hang', '/quick', '/hang'],
  ['/hang', '/quick', '/hang', '/quick'],
  ['/hang', '/hang', '/quick'],
  ['/hang', '/large', '/quick'],
  // Fastify answers a malformed URL without a hook.
  ['/hang', '/%zz', '/quick']
]

const { key, cert } = await createCredentials()

for (const paths of orders) {
  const hangs = paths.filter(path => path.startsWith('/hang'))
  const expected = paths.map(path => path.startsWith('/hang') ? '503' : path === '/%zz' ? '400' : '200')

  for (const [protocol, tls] of [['HTTP', undefined], ['HTTPS', { key, cert }]] as const) {
    t.test(`${protocol}: ${paths.join()} that is cut at the drain timeout sends the ready responses, and names only unanswered requests`, async t => {
      const { client, app, release } = await startPipeline(t, paths, { drainTimeout: 200 }, tls)
      const report = await app.gracefulShutdown.shutdown()
      await client.closed
      t.strictSame(statuses(client), expected)
      onlyLastMayClose(t, client)
      t.strictSame(cutUrls(report), hangs)
      const before = paths.indexOf(hangs[0] ?? '')
      t.match(report, { completed: paths.length - hangs.length - before, exitCode: 1 })
      release()
      await waitForNoneInFlight(app)
    })
  }

  t.test(`${paths.join()} that is cut by writeTimeout while running sends the ready responses, and names only unanswered requests`, async t => {
    const { client, app, log, release } = await startPipeline(t, paths, { writeTimeout: 200 })
    await eventually(() => statuses(client).length === paths.length)
    t.strictSame(statuses(client), expected)
    t.strictSame(log.lines.filter(({ msg }) => msg.startsWith('Request cut')).map(({ url }) => url), hangs)
    client.socket.destroy()
    await client.closed
    release()
    await waitForNoneInFlight(app)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })
}

t.test('a response that has begun behind others, and is cut at the drain timeout, does not keep these from being sent', async t => {
  for (const [protocol, tls] of [['HTTP', undefined], ['HTTPS', { key, cert }]] as const) {
    const { client, app, release } = await startPipeline(t, ['/hang', '/quick', '/stream', '/quick', '/hang'], { drainTimeout: 200 }, tls)
    const report = await app.gracefulShutdown.shutdown()
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 503 [^]*HTTP\/1\.1 200 [^]*\r\nquick/, protocol)
    // Without an order: each is named as it is found.
    t.strictSame(cutUrls(report).map(String).sort(), ['/hang', '/hang', '/quick', '/stream'])
    t.equal(report.completed, 1)
    release()
    await waitForNoneInFlight(app)
  }
})

t.test('a response that was sent before one that is cut in its turn is complete, although another hook delays its onResponse hook', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  app.addHook('onResponse', async () => { await sleep(20) })
  await app.register(gracefulPlugin, { drainTimeout: 200 })
  let begun = false
  app.get('/hang', async () => { await new Promise(() => {}) })
  app.get('/quick', async () => 'quick')
  app.get('/stream', (_request, reply) => {
    const stream = new PassThrough()
    void reply.send(stream)
    stream.write('begun')
    begun = true
  })
  const client = new RawClient(await listen(app))
  client.send(['/hang', '/quick', '/stream'].map(path => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`).join(''))
  await eventually(() => begun)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503 [^]*\r\nquick/)
  t.strictSame(cutUrls(report).map(String).sort(), ['/hang', '/stream'])
  t.equal(report.completed, 1)
})

t.test('a stalled upload whose response has begun behind another one is cut in its turn, without a warning', async t => {
  const { app, log } = await createApp(t)
  const warnings: Error[] = []
  const note = (warning: Error) => { warnings.push(warning) }
  process.on('warning', note)
  t.teardown(() => { process.off('warning', note) })
  const held = heldRoute(app)
  app.addContentTypeParser('text/plain', (_request, _payload, done) => { done(null) })
  app.post('/', { config: { gracefulShutdown: { readTimeout: 50 } } }, (_request, reply) => {
    const stream = new PassThrough()
    void reply.send(stream)
    stream.write('begun')
  })
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nab')
  await log.line(/^Request cut/)
  // The sweep cuts it again every 10 ms.
  await sleep(400)
  held.release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*"held":true/)
  t.strictSame(warnings, [])
  t.equal(log.messages(/^Request cut/).length, 1)
})

t.test('a pipeline whose client disconnects while it is cut leaves no request in flight', async t => {
  const { client, app, release } = await startPipeline(t, ['/hang', '/quick', '/quick'], { drainTimeout: 200 })
  const report = app.gracefulShutdown.shutdown()
  client.socket.destroy()
  release()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.equal(app.inFlightRequests, 0)
})

t.test('a pipeline that is answered in time is sent completely', async t => {
  const { client, app, release } = await startPipeline(t, ['/hang', '/quick', '/large'], {})
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  release()
  await client.closed
  t.strictSame(statuses(client), ['200', '200', '200'])
  onlyLastMayClose(t, client)
  t.match(await report, { completed: 3, cut: { length: 0 }, exitCode: 0 })
})

t.test('an upload that is rejected at once, but waits for its turn, does not affect the response ahead of it', async t => {
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  app.post('/', { config: { gracefulShutdown: { readTimeout: 200 } } }, async () => 'never')
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: un/known\r\nContent-Length: 4\r\n\r\nab')
  await log.line(/Unsupported Media Type/)
  await sleep(600)
  held.release()
  await client.closed
  t.strictSame(statuses(client), ['200', '415'])
  t.strictSame(log.messages(/^Request cut/), [])
})

t.test('a handler that goes on after its answer, which waits for its turn, is named as cut at the drain timeout', async t => {
  const { app } = await createApp(t, { drainTimeout: 200 })
  const { entered, release } = heldRoute(app)
  const [answered, done] = [new Deferred(), new Deferred()]
  app.get('/goes-on', async (_request, reply) => {
    // So that no connection is open when the drain has ended.
    void reply.header('connection', 'close').send('answer')
    answered.resolve()
    await done.promise
  })
  const client = new RawClient(await listen(app)).get('/held').get('/goes-on')
  await Promise.all([entered, answered.promise])
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.strictSame(statuses(client), ['503', '200'])
  t.strictSame(cutUrls(report), ['/held', '/goes-on'])
  release()
  done.resolve()
  await waitForNoneInFlight(app)
})

t.test('what is pipelined behind a response that has said Connection: close reaches no handler', async t => {
  const { app } = await createApp(t, { shutdownDelay: 60_000, shutdownTimeout: 120_000 })
  const ended = new Deferred()
  let served = 0
  app.get('/stream', (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200).write('first')
    void ended.promise.then(() => { reply.raw.end('last') })
  })
  app.get('/quick', async () => { served++ })
  const client = new RawClient(await listen(app))
  const report = app.gracefulShutdown.shutdown()
  client.get('/stream')
  await client.until(/connection: close\r\n[^]*first/i)
  const entered = new Promise(resolve => { app.server.once('request', resolve) })
  client.get('/quick')
  await entered
  ended.resolve()
  await client.closed
  app.gracefulShutdown.skipDelay()
  t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 }, 'refused are those that were answered with 503')
  t.equal(served, 0)
  t.strictSame(statuses(client), ['200'])
})

t.test('of requests that are pipelined while draining, those that are counted as refused are answered with 503', async t => {
  const { app, port, client, release, report } = await heldShutdown(t)
  const refusals = collect(t, 'fastify-graceful:refused')
  const late = new RawClient(port)
  for (let sent = 0; sent < 50; sent++) late.get('/held')
  await late.closed
  t.equal(late.error, undefined)
  t.strictSame(statuses(late), ['503'], 'it says Connection: close, so nothing can follow')
  release()
  await client.closed
  t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
  t.equal(refusals.filter(({ fastify }) => fastify === app).length, 1)
})

t.test('of requests that arrive together during shutdownDelay, those behind an answer with Connection: close reach no handler', async t => {
  const { app } = await createApp(t, { shutdownDelay: 60_000, shutdownTimeout: 120_000 })
  const served: string[] = []
  // Answered while Node is still parsing the rest.
  app.get('/:name', ({ url }, reply) => {
    served.push(url)
    void reply.send('answer')
  })
  const client = new RawClient(await listen(app))
  await once(client.socket, 'connect')
  const report = app.gracefulShutdown.shutdown()
  client.send(['/first', '/second', '/third'].map(url => `GET ${url} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''))
  await client.closed
  app.gracefulShutdown.skipDelay()
  const { completed, refused } = await report
  t.strictSame(served, ['/first'])
  t.strictSame(statuses(client), ['200'])
  t.strictSame({ completed, refused }, { completed: 1, refused: 0 })
})

t.test('a request behind a body that is still being received, once its answer has closed the connection, reaches no handler', async t => {
  const { app } = await createApp(t, { shutdownDelay: 60_000, shutdownTimeout: 120_000 })
  let served = 0
  // Fastify does not read the body of a GET request.
  app.get('/early', (_request, reply) => {
    reply.hijack()
    reply.raw.end('early')
  })
  app.get('/quick', async () => { served++ })
  const client = new RawClient(await listen(app))
  const report = app.gracefulShutdown.shutdown()
  client.send('GET /early HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbo')
  await client.until(/connection: close\r\n[^]*early/i)
  const arrived: unknown[] = []
  app.server.on('request', ({ url }) => { arrived.push(url) })
  client.send('dyGET /quick HTTP/1.1\r\nHost: x\r\n\r\n')
  await client.closed
  t.strictSame(arrived, ['/quick'])
  app.gracefulShutdown.skipDelay()
  t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  t.equal(served, 0)
  t.strictSame(statuses(client), ['200'])
})

t.test('a request that arrives after the connection has been ended for writing reaches no handler', async t => {
  const { app } = await createApp(t, { shutdownDelay: 60_000, shutdownTimeout: 120_000 })
  const served: string[] = []
  app.get('/:name', async ({ url }) => {
    served.push(url)
    return 'answer'
  })
  await listen(app)
  const ended = new Deferred()
  const released = new Deferred()
  const stream = new Duplex({
    read () {},
    write (_chunk, _encoding, done) { done() },
    final (done) {
      ended.resolve()
      void released.promise.then(() => { done() })
    }
  })
  app.server.emit('connection', stream)
  const report = app.gracefulShutdown.shutdown()
  stream.push('GET /first HTTP/1.1\r\nHost: x\r\n\r\n')
  await ended.promise
  const arrived = once(app.server, 'request')
  stream.push('GET /second HTTP/1.1\r\nHost: x\r\n\r\n')
  await arrived
  released.resolve()
  app.gracefulShutdown.skipDelay()
  t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  t.strictSame(served, ['/first'])
})

t.test('HTTPS: cutting thousands of requests behind one that hangs does not block the event loop', async t => {
  const REQUESTS = 4_000
  const { app } = await createApp(t, { drainTimeout: 100 }, { https: { key, cert } } as object)
  const begin = new Deferred()
  let begun = 0
  app.get('/hang', async () => await new Promise(() => {}))
  app.get('/stream', async (_request, reply) => {
    // With that much to send, Node stops reading.
    await begin.promise
    begun++
    const body = new PassThrough()
    body.write('begun')
    return reply.send(body)
  })
  const client = new RawClient(connectTls({ port: await listen(app), host: '127.0.0.1', rejectUnauthorized: false })).get('/hang')
  client.send('GET /stream HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(REQUESTS))
  await eventually(() => app.inFlightRequests === 1 + REQUESTS)
  begin.resolve()
  await eventually(() => begun === REQUESTS)
  const cost = processorTime()
  const { cut } = await app.gracefulShutdown.shutdown()
  t.equal(cut.length, 1 + REQUESTS)
  t.ok(cost() < 3_000, `${cost()} ms of processor time`)
  client.socket.destroy()
})

t.test('ready answers behind a request that has opted out, and hangs, are sent as connections are closed', async t => {
  const { app } = await createApp(t, { drainTimeout: 300 })
  const opted = heldRoute(app, '/opted', { gracefulShutdown: false })
  const ready = new Deferred()
  app.get('/ready-answer', async () => 'ready')
  app.get('/last', async () => {
    ready.resolve()
    return 'last'
  })
  const client = new RawClient(await listen(app)).get('/opted').get('/ready-answer').get('/last')
  await Promise.all([opted.entered, ready.promise])
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, completed: 2, exitCode: 0 })
  await client.closed
  opted.release()
  t.match(client.text, /^HTTP\/1\.1 503 [^]*HTTP\/1\.1 200 [^]*readyHTTP\/1\.1 200 [^]*last$/)
})
