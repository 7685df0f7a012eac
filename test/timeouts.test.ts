import t from 'tap'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { GracefulOptions } from '../types/index.ts'
import type { Http2Server } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect as connectHttp2, createServer as createHttp2Server } from 'node:http2'
import { connect as connectTcp, createServer as createTcpServer } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { checkIntervalOf } from '../lib/times.ts'
import { createApp, Deferred, eventually, every, heldRoute, listen, RawClient, visit } from './helpers.ts'

async function http2App (t: Test, options: GracefulOptions = {}, server: object = {}): Promise<FastifyInstance> {
  const app = Fastify({ http2: true, ...server }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, options)
  return app
}

t.test('a client that sends its body slowly is answered with 408 and closed', async t => {
  const { app } = await createApp(t, { readTimeout: 200 })
  app.post('/', async () => 'never')
  const client = new RawClient(await listen(app))
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n')
  const stop = every(t, 20, () => { client.send('x') })
  const start = performance.now()
  await client.closed
  stop()
  t.match(client.text, /^HTTP\/1\.1 408 /)
  const time = performance.now() - start
  t.ok(time >= 190 && time < 1_500, `closed after ${time}ms`)
  await eventually(() => app.inFlightRequests === 0)
})

t.test('an injected request that hangs is cut, and cut again if its response is not read, without an error', async t => {
  // An error in a timer must fail the test, so it must not trigger a shutdown.
  const { app } = await createApp(t, { writeTimeout: 50, idleTimeout: false, signals: ['SIGTERM'] })
  const never = new Deferred()
  app.post('/', async () => { await never.promise })
  app.get('/begun', async () => Readable.from((async function * () {
    yield 'begun'
    await never.promise
  })()))
  await listen(app)
  const begun = t.rejects(app.inject('/begun'))
  const { statusCode } = await app.inject({ method: 'POST', url: '/', payload: { some: 'body' } })
  t.equal(statusCode, 503)
  await begun
  // By then, each of them has reached its second timeout.
  await sleep(300)
  never.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a client that never sends its headers is closed', async t => {
  const { app } = await createApp(t, { readTimeout: 100 })
  const port = await listen(app)
  const silent = new RawClient(port)
  const half = new RawClient(port).send('GET / HTTP/1.1\r\nHo')
  await Promise.all([silent.closed, half.closed])
  t.match(half.text, /^HTTP\/1\.1 408 /)
})

t.test('readTimeout: false does not limit a slow upload', async t => {
  const { app } = await createApp(t, { readTimeout: false })
  t.equal(app.server.requestTimeout, 0)
  app.post('/', async request => request.body)
  const client = new RawClient(await listen(app)).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\na')
  await eventually(() => app.inFlightRequests === 1)
  client.send('b')
  await client.until(/ab$/)
})

t.test('HTTP/2: a client that never ends its request is answered with 408', async t => {
  for (const [options, server] of [[{ readTimeout: 100 }, { requestTimeout: 60_000 }], [{}, { requestTimeout: 100 }]] as const) {
    const app = await http2App(t, options, server)
    app.post('/', async () => 'never')
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
    const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'text/plain' })
    stream.on('error', () => {})
    stream.write('half')
    const [headers] = await once(stream, 'response') as [Record<string, unknown>]
    t.equal(headers[':status'], 408)
    t.notOk('connection' in headers)
    await eventually(() => app.inFlightRequests === 0)
    session.destroy()
  }
})

t.test('a handler that does not answer is cut: its client gets a 503, and the log names it', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 2_000 })
  const held = heldRoute(app, '/held/:id')
  const { client, gone } = await visit(app, await listen(app))
  const start = performance.now()
  await client.get('/held/1').until(/\}$/)
  const time = performance.now() - start
  t.ok(time >= 1_995 && time < 3_900, `cut after ${time}ms`)
  t.match(client.text, /^HTTP\/1\.1 503 [^]*connection: close/i)
  await eventually(() => gone())
  t.match(client.text, '{"statusCode":503,"code":"FST_ERR_GRACEFUL_WRITE_TIMEOUT","error":"Service Unavailable","message":"The response made no progress for 2000 ms"}')
  t.match(await log.line(/^Request cut/), { level: 50, method: 'GET', route: '/held/:id', url: '/held/1', reqId: 'req-1' })
  t.equal(log.messages(/^Request cut/).length, 1)
  t.equal(app.inFlightRequests, 1, 'its handler still runs')
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 }, 'it does not concern the shutdown')
})

t.test('a connection that waits for a handler has no timer, one that receives or sends data has one', async t => {
  const { app } = await createApp(t, { writeTimeout: 500, idleTimeout: false })
  const held = heldRoute(app)
  const source = new Readable({ read () {} })
  app.get('/stream', async () => source)
  source.push('some')
  const port = await listen(app)
  const timerAfter = async (path: string) => {
    const connected = once(app.server, 'connection') as Promise<[Socket]>
    const client = new RawClient(port).get(path)
    const [socket] = await connected
    // The plugin checks in intervals of a tenth of the timeout.
    await sleep(200)
    return { client, timer: socket.timeout ?? 0 }
  }
  const waiting = await timerAfter('/held')
  t.equal(waiting.timer, 0)
  held.release()
  await waiting.client.until(/\{"held":true\}$/)
  const streaming = await timerAfter('/stream')
  t.equal(Math.round(streaming.timer), 500)
  source.push(null)
  await streaming.client.until(/\r\n0\r\n\r\n$/)
})

t.test('a callback-style handler that was cut counts until it answers', async t => {
  const { app } = await createApp(t, { writeTimeout: 50 })
  const released = new Deferred()
  app.get('/', (_request, reply) => { void released.promise.then(() => { reply.send('late') }) })
  const { client, gone } = await visit(app, await listen(app))
  await client.get('/').until(/^HTTP\/1\.1 503 /)
  await eventually(() => gone())
  t.equal(app.inFlightRequests, 1)
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a response that stalls after its headers is cut', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 100 })
  const source = new Readable({ read () {} })
  app.get('/', async () => source)
  source.push('some')
  const client = new RawClient(await listen(app)).get('/')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*some/)
  t.notMatch(client.text, /\r\n0\r\n\r\n$/)
  await eventually(() => source.destroyed)
  await log.line(/^Request cut: The response made no progress for 100 ms/)
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a response that makes progress is not cut, however long it takes', async t => {
  const { app } = await createApp(t, { writeTimeout: 500 })
  const source = new Readable({ read () {} })
  app.get('/', async () => source)
  let pushed = 0
  const stop = every(t, 30, () => {
    source.push(pushed++ < 40 ? 'x' : null)
  })
  const client = new RawClient(await listen(app)).get('/', ['Connection: close'])
  await client.closed
  stop()
  t.match(client.text, /\r\n0\r\n\r\n$/)
})

t.test('a client that reads slowly is not cut, one that stops reading is', async t => {
  const { app } = await createApp(t, { writeTimeout: 1_000 })
  const size = 24 * 1024 * 1024
  app.get('/', async () => Buffer.alloc(size, 'x'))
  const port = await listen(app)
  const slow = new RawClient(port)
  let read = 0
  slow.socket.removeAllListeners('data')
  slow.socket.on('data', (chunk: Buffer) => {
    read += chunk.length
    slow.socket.pause()
    setTimeout(() => { slow.socket.resume() }, 5)
  })
  slow.get('/', ['Connection: close'])
  const start = performance.now()
  const stuck = new RawClient(port).get('/')
  stuck.socket.pause()
  await eventually(() => app.inFlightRequests === 1)
  await slow.closed
  t.ok(performance.now() - start > 1_000, 'the slow one takes longer than the timeout')
  t.ok(read > size, 'and reads everything')
  await eventually(() => app.inFlightRequests === 0)
  stuck.socket.destroy()
})

t.test('a route can have its own write timeout or none', async t => {
  const { app } = await createApp(t, { writeTimeout: 10_000 })
  const quick = heldRoute(app, '/quick', { gracefulShutdown: { writeTimeout: 60 } })
  const patient = heldRoute(app, '/patient', { gracefulShutdown: { writeTimeout: false } })
  const port = await listen(app)
  const waiting = new RawClient(port).get('/patient')
  const client = new RawClient(port).get('/quick')
  await client.closed
  t.match(client.text, /503[^]*no progress for 60 ms/)
  t.equal(waiting.text, '')
  quick.release()
  patient.release()
  await waiting.until(/held/)
})

t.test('a route without a write timeout is not cut by the default', async t => {
  const { app } = await createApp(t, { writeTimeout: 50 })
  const patient = heldRoute(app, '/patient', { gracefulShutdown: { writeTimeout: false } })
  const other = heldRoute(app, '/other')
  const port = await listen(app)
  const waiting = new RawClient(port).get('/patient')
  for (let round = 0; round < 3; round++) await new RawClient(port).get('/other').closed
  t.equal(waiting.text, '')
  patient.release()
  other.release()
  await waiting.until(/200 OK/)
})

t.test('writeTimeout: false cuts nothing', async t => {
  const { app } = await createApp(t, { writeTimeout: false, readTimeout: 500 })
  const held = heldRoute(app)
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await new RawClient(port).send('GET').closed
  await new RawClient(port).send('GET').closed
  held.release()
  await client.until(/200 OK/)
})

t.test('HTTP/2: a handler that does not answer is cut with 503, a stalled stream is reset', async t => {
  const app = await http2App(t, { writeTimeout: 100 })
  const held = heldRoute(app)
  const source = new Readable({ read () {} })
  source.push('some')
  app.get('/stalls', async () => source)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const cut = session.request({ ':path': '/held' })
  const [headers] = await once(cut, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  cut.resume()
  const stalled = session.request({ ':path': '/stalls' })
  stalled.resume()
  const [error] = await once(stalled, 'error') as [Error]
  t.match(error.message, /INTERNAL_ERROR/)
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  session.destroy()
})

t.test('a client that does not read its 503 is closed', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 80 })
  const held = heldRoute(app)
  // Sends more than a socket buffers, ahead of the response.
  app.addHook('onRequest', async request => { request.raw.socket.write(Buffer.alloc(32 * 1024 * 1024)) })
  const { client, gone } = await visit(app, await listen(app))
  client.socket.pause()
  client.get('/held')
  await log.line(/^Request cut/)
  t.notOk(gone(), 'it is answered, and has the same time again to read')
  await eventually(() => gone())
  t.equal(log.messages(/^Request cut/).length, 1)
  t.equal(app.inFlightRequests, 1, 'its handler still runs')
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  client.socket.destroy()
})

t.test('HTTP/2: a client that does not read its 503 has its stream reset', async t => {
  const app = await http2App(t, { writeTimeout: 80 })
  const held = heldRoute(app)
  // The window allows headers, but no byte of a body.
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`, { settings: { initialWindowSize: 0 } })
  const stream = session.request({ ':path': '/held' })
  let error: Error | undefined
  stream.on('error', thrown => { error = thrown })
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  t.equal(error, undefined, 'it has the same time again to read')
  await eventually(() => error !== undefined)
  t.match(error, { message: /INTERNAL_ERROR/ })
  t.equal(app.inFlightRequests, 1, 'its handler still runs')
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  session.destroy()
})

t.test('an idle connection is closed after idleTimeout', async t => {
  const { app } = await createApp(t, { idleTimeout: 100 })
  app.get('/', async () => 'x')
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/x$/)
  const start = performance.now()
  await client.closed
  t.ok(performance.now() - start < 3_000, 'Node adds a second')
})

t.test('HTTP/2: an idle session is closed after idleTimeout', async t => {
  const app = await http2App(t, { idleTimeout: 50 })
  app.get('/', async () => 'x')
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  // On a busy machine, the session may be idle for as long before the stream arrives, which is then refused.
  session.request({ ':path': '/' }).on('error', () => {}).resume()
  await once(session, 'close')
  t.ok(session.destroyed)
})

t.test('idleTimeout: false keeps an idle connection, also after a long response', async t => {
  const { app } = await createApp(t, { idleTimeout: false, writeTimeout: 60 })
  t.equal(app.server.keepAliveTimeout, 0)
  const held = heldRoute(app)
  app.get('/long', { config: { gracefulShutdown: { writeTimeout: 10_000 } } }, async () => { await held.entered; return 'long' })
  const port = await listen(app)
  const client = new RawClient(port).get('/long')
  await eventually(() => app.inFlightRequests === 1)
  // A response that lasts longer than a sweep is watched; this must end with the response.
  await new RawClient(port).get('/held').closed
  await client.until(/long$/)
  await new RawClient(port).get('/held').closed
  client.text = ''
  await client.get('/long').until(/long$/)
  held.release()
})

t.test('a request whose handler stays silent after its client disconnected stops counting after drainTimeout', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 50 })
  app.get('/', () => {})
  const client = new RawClient(await listen(app)).get('/')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  t.match(await log.line(/has not ended since its client disconnected/), { level: 40, reqId: 'req-1', route: '/' })
  t.equal(app.inFlightRequests, 0)
})

t.test('a body parser that does not notice that its client has disconnected stops counting after drainTimeout', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 50 })
  // As in Fastify's documentation.
  app.addContentTypeParser('text/own', (_request, payload, done) => { payload.resume().on('end', () => { done(null, 'body') }) })
  app.post('/', async () => 'never')
  const client = new RawClient(await listen(app)).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/own\r\nContent-Length: 10\r\n\r\nhalf')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  t.match(await log.line(/has not ended since its client disconnected/), { level: 40, reqId: 'req-1', route: '/' })
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a request whose client has disconnected counts while hooks process its response, however long its handler has run', async t => {
  const drainTimeout = 1_000
  const { app, log } = await createApp(t, { drainTimeout })
  const [entered, left] = [new Deferred(), new Deferred()]
  // Several sweeps find that no handler runs yet.
  app.addHook('preHandler', async () => {
    entered.resolve()
    await left.promise
    await sleep(drainTimeout / 3)
  })
  const counts: number[] = []
  app.addHook('onSend', async () => {
    await sleep(drainTimeout / 3)
    counts.push(app.inFlightRequests)
  })
  app.get('/', async () => {
    await sleep(drainTimeout)
    return 'answer'
  })
  const { leave, client } = await visit(app, await listen(app))
  client.get('/')
  await entered.promise
  await leave()
  left.resolve()
  await eventually(() => counts.length === 1)
  t.strictSame(counts, [1])
  t.strictSame(log.messages(/has not answered/), [])
  await eventually(() => app.inFlightRequests === 0)
})

t.test('sets its timeouts on the server', async t => {
  const { app } = await createApp(t)
  t.match(app.server, {
    requestTimeout: 0, headersTimeout: 10_000, keepAliveTimeout: 120_000, timeout: 0, connectionsCheckingInterval: 1_000
  })
})

t.test('keeps the timeouts that the user gave to Fastify unless the option is given', async t => {
  const given: FastifyServerOptions & object = { requestTimeout: 3_000, keepAliveTimeout: 4_000, connectionTimeout: 5_000 }
  const { app: kept } = await createApp(t, {}, given)
  t.match(kept.server, { requestTimeout: 3_000, headersTimeout: 3_000, keepAliveTimeout: 4_000, timeout: 5_000 })
  const { app: own } = await createApp(t, { readTimeout: 1_000, idleTimeout: 2_000, writeTimeout: 1_500 }, given)
  t.match(own.server, { requestTimeout: 0, headersTimeout: 1_000, keepAliveTimeout: 2_000, timeout: 0 })
})

t.test('with connectionTimeout, the default write timeout cuts nothing', async t => {
  const { app, log } = await createApp(t, {}, { connectionTimeout: 60 })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await client.closed
  t.equal(client.text, '', 'Node closed it')
  t.strictSame(log.messages(/^Request cut/), [])
  held.release()
})

t.test('keeps http2SessionTimeout unless idleTimeout is given', async t => {
  for (const [options, closes] of [[{}, true], [{ idleTimeout: 60_000 }, false]] as const) {
    const app = await http2App(t, options, { http2SessionTimeout: 50 })
    app.get('/', async () => 'x')
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
    let closed = false
    session.on('close', () => { closed = true })
    const stream = session.request({ ':path': '/' })
    // If the machine stalls, the timeout may be over before the request, which is then refused.
    const ended = new Promise(resolve => { stream.on('error', () => {}).once('close', resolve) })
    stream.resume()
    await ended
    const other = await http2App(t, { idleTimeout: 200 })
    const longer = connectHttp2(`http://127.0.0.1:${await listen(other)}`)
    await once(longer, 'close')
    t.equal(closed, closes)
    session.destroy()
  }
})

t.test('keeps the timeouts that a server factory sets, and replaces those of Node', async t => {
  for (const [settings, expected] of [
    [{ keepAliveTimeout: 1_234, requestTimeout: 2_345 }, { keepAliveTimeout: 1_234, requestTimeout: 2_345 }],
    [{}, { keepAliveTimeout: 120_000, requestTimeout: 0, headersTimeout: 10_000 }]
  ] as const) {
    const { app } = await createApp(t, {}, {
      serverFactory: (handler: (request: never, response: never) => void) => createServer(settings, handler as never)
    })
    t.match(app.server, expected)
  }
})

t.test('with the longest times, Node does not warn that a timer overflows', async t => {
  const warnings: string[] = []
  const warn = ({ name }: Error) => { warnings.push(name) }
  process.on('warning', warn)
  t.teardown(() => { process.off('warning', warn) })
  const longest = 2 ** 31 - 1
  const { app } = await createApp(t, { readTimeout: longest, writeTimeout: longest, idleTimeout: longest })
  app.get('/', async () => 'answered')
  const client = new RawClient(await listen(app))
  // The second request arrives after the connection has been idle.
  for (const answers of [/answered/, /answered[^]*answered/]) await client.get('/').until(answers)
  client.socket.destroy()
  await client.closed
  t.strictSame(warnings, [])
})

t.test('a handler that is done when a blocked event loop goes on is not cut, although writeTimeout has passed', async t => {
  const { app } = await createApp(t, { writeTimeout: 300 })
  const entered = new Deferred()
  app.get('/', async () => {
    entered.resolve()
    await sleep(50)
    return 'done'
  })
  const client = new RawClient(await listen(app)).get('/')
  await entered.promise
  for (const end = performance.now() + 1_000; performance.now() < end;);
  t.match(await client.until(/done$|\}$/), /^HTTP\/1\.1 200 /)
})

t.test('a handler that blocks the event loop while the timeouts are about to be checked is not cut before it can go on', async t => {
  const { app } = await createApp(t, { writeTimeout: 300 })
  app.get('/', async () => {
    const slept = sleep(50)
    for (const end = performance.now() + 600; performance.now() < end;);
    await slept
    return 'done'
  })
  app.get('/quick', async () => 'quick')
  const sent = new Deferred()
  let send = () => {}
  // It expires together with the interval of the plugin, which starts in the same event.
  const tick = () => { setImmediate(() => { send() }) }
  app.server.once('listening', () => {
    every(t, checkIntervalOf(300), tick)
  })
  const client = new RawClient(await listen(app)).get('/quick')
  await client.until(/quick$/)
  send = () => {
    send = () => {}
    client.get('/')
    sent.resolve()
  }
  await sent.promise
  t.match((await client.until(/done$|\}$/)).split('quick')[1], /^HTTP\/1\.1 200 /)
})

for (const [what, limit] of [
  ['in a listener for sessions', (server: Http2Server) => server.on('session', session => { session.setTimeout(100, () => { session.close() }) })],
  ['with server.setTimeout()', (server: Http2Server) => server.setTimeout(100)]
] as const) {
  t.test(`a timeout that a serverFactory sets for HTTP/2 sessions is kept: ${what}`, async t => {
    const app = await http2App(t, {}, { serverFactory: (handler: () => void) => limit(createHttp2Server(handler)) })
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`).on('error', () => {})
    // On a loaded machine, the session may be closed before the request arrives.
    session.request({ ':path': '/' }).on('error', () => {}).resume()
    await once(session, 'close')
    t.equal(app.gracefulShutdown.phase, 'running')
  })
}

for (const server of [{ http2SessionTimeout: 0 }, { serverFactory: (handler: () => void) => createHttp2Server(handler) }]) {
  t.test(`HTTP/2: idleTimeout limits idle sessions although nothing else does: ${Object.keys(server).join()}`, async t => {
    const app = await http2App(t, { idleTimeout: 100 }, server)
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
    await once(session, 'close')
    t.equal(app.gracefulShutdown.phase, 'running')
  })
}

t.test('HTTP/2: idleTimeout: false keeps an idle session, although Fastify would close it', async t => {
  const app = await http2App(t, { idleTimeout: false }, { http2SessionTimeout: 50 })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  await once(session, 'remoteSettings')
  // No event tells that a session stays open.
  await sleep(300)
  t.notOk(session.closed)
  session.destroy()
})

for (const isHttp2 of [false, true]) {
  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: writeTimeout does not cut a handler whose answer waits while the event loop is blocked`, async t => {
    const app = isHttp2 ? await http2App(t, { writeTimeout: 300 }) : (await createApp(t, { writeTimeout: 300 })).app
    const upstream = createTcpServer()
    t.teardown(() => { upstream.close() })
    await once(upstream.listen(0, '127.0.0.1'), 'listening')
    const socket = connectTcp((upstream.address() as AddressInfo).port, '127.0.0.1')
    const [peer] = await once(upstream, 'connection') as [Socket]
    t.teardown(() => { peer.destroy() })
    app.get('/', async () => {
      const [chunk] = await once(socket, 'data') as [Buffer]
      return chunk.toString()
    })
    const port = await listen(app)
    // When the response is watched.
    setTimeout(() => {
      setImmediate(() => {
        peer.write('answer')
        const end = performance.now() + 600
        while (performance.now() < end);
      })
    }, 150)
    if (isHttp2) {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      const stream = session.request({ ':path': '/' })
      const [headers] = await once(stream, 'response') as [Record<string, unknown>]
      t.equal(headers[':status'], 200)
      session.destroy()
    } else {
      const client = new RawClient(port).get('/')
      await client.until(/answer$/)
      t.match(client.text, /^HTTP\/1\.1 200 /)
      client.socket.destroy()
    }
  })
}
