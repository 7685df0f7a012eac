import t from 'tap'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { ClientHttp2Session, ClientHttp2Stream, Http2ServerResponse, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { connect } from 'node:net'
import { Duplex, PassThrough, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import websocket from '@fastify/websocket'
import { WebSocket } from 'undici'
import type { Test } from 'tap'
import type { TestApp } from './helpers.ts'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createApp, createAppBehind, Deferred, eventually, every, HANDSHAKE, heldRoute, listen, RawClient, visit } from './helpers.ts'

async function http2App (t: Test): Promise<FastifyInstance> {
  const app = Fastify({ http2: true }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  app.get('/quick', async () => 'quick')
  return app
}

/** One more exchange on a session, after which the server has received everything sent before it. */
async function roundTrip (session: ClientHttp2Session): Promise<void> {
  const stream = session.request({ ':path': '/quick' })
  stream.resume()
  await once(stream, 'close')
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Calls back after each garbage collection until the condition holds. Collecting takes long, so not as often as `eventually` looks. */
async function afterCollecting (condition: () => boolean): Promise<void> {
  await eventually(() => {
    collectGarbage()
    return condition()
  }, 10_000, 100)
}

/** Resolves when all of these weak references have been collected. */
async function collected (references: ReadonlyArray<WeakRef<object>>): Promise<void> {
  await afterCollecting(() => references.every(reference => reference.deref() === undefined))
}

/** Expects that no request counts any longer and that a shutdown has nothing to wait for. */
async function expectNoneInFlight (t: Test, { app }: Pick<TestApp, 'app'>): Promise<void> {
  await eventually(() => app.inFlightRequests === 0)
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
  t.equal(app.inFlightRequests, 0, 'never negative')
}

t.test('counts a request from its start to its end and describes it', async t => {
  const target = await createApp(t)
  const { app } = target
  const held = heldRoute(app, '/held/:id')
  t.equal(app.inFlightRequests, 0)
  const answers = [app.inject('/held/1?a=b'), app.inject({ method: 'HEAD', url: '/held/2' })]
  await held.entered
  await eventually(() => app.inFlightRequests === 2)
  const [first, second] = app.gracefulShutdown.inFlight()
  t.match(first, { kind: 'request', method: 'GET', route: '/held/:id', url: '/held/1', reqId: 'req-1' })
  t.match(second, { kind: 'request', method: 'HEAD', route: '/held/:id', reqId: 'req-2' })
  t.ok(first !== undefined && Number.isInteger(first.age) && first.age >= 0)
  held.release()
  await Promise.all(answers)
  await expectNoneInFlight(t, target)
})

t.test('is exact after each kind of response', async t => {
  const target = await createApp(t)
  const { app, log } = target
  app.get('/sync', (_request, reply) => { reply.send('x') })
  app.get('/async', async () => ({ a: 1 }))
  app.get('/throws', () => { throw new Error('x') })
  app.get('/rejects', async () => { throw new Error('x') })
  app.get('/nothing', async () => {})
  app.get('/twice', async (_request, reply) => {
    reply.send('once')
    return 'twice'
  })
  app.get('/returns-reply', async (_request, reply) => {
    setImmediate(() => { reply.send('later') })
    return await reply
  })
  app.get('/stream', async () => Readable.from(['a', 'b']))
  for (const [url, status] of Object.entries({
    '/sync': 200, '/async': 200, '/throws': 500, '/rejects': 500, '/nothing': 200, '/twice': 200, '/returns-reply': 200,
    '/stream': 200, '/nowhere': 404, '/%zz': 400
  })) {
    const port = app.server.listening ? (app.server.address() as { port: number }).port : await listen(app)
    const client = new RawClient(port).get(url, ['Connection: close'])
    await client.closed
    t.match(client.text, `HTTP/1.1 ${status} `, url)
    await eventually(() => app.inFlightRequests === 0)
  }
  t.match(log.messages(/already sent/).length, 1)
  await expectNoneInFlight(t, target)
})

t.test('is exact after an error in another onRequest hook, before or after its own', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  app.addHook('onRequest', async request => { if (request.url === '/before') throw new Error('before') })
  await app.register(gracefulPlugin)
  app.addHook('onRequest', async request => { if (request.url === '/after') throw new Error('after') })
  app.get('/before', async () => 'x')
  app.get('/after', async () => 'x')
  for (const url of ['/before', '/after', '/before']) {
    t.equal((await app.inject(url)).statusCode, 500)
    t.equal(app.inFlightRequests, 0, url)
  }
})

t.test('a handler whose client has disconnected counts until it settles', async t => {
  for (const style of ['async', 'callback', 'returns undefined', 'returns the reply']) {
    const target = await createApp(t)
    const { app } = target
    const entered = new Deferred()
    const released = new Deferred()
    let settled = false
    if (style === 'async' || style === 'returns undefined') {
      app.get('/', async () => {
        entered.resolve()
        await released.promise
        settled = true
        return style === 'async' ? 'x' : undefined
      })
    } else {
      app.get('/', (_request, reply) => {
        entered.resolve()
        void released.promise.then(() => {
          settled = true
          reply.send('x')
        })
        return style === 'callback' ? undefined : reply
      })
    }
    const { client, leave } = await visit(app, await listen(app))
    client.get('/')
    await entered.promise
    await leave()
    t.equal(app.inFlightRequests, 1, style)
    const report = app.gracefulShutdown.shutdown()
    released.resolve()
    t.match(await report, { cut: { length: 0 }, completed: 0, exitCode: 0 })
    t.ok(settled, `${style}: the shutdown has waited`)
    t.equal(app.inFlightRequests, 0)
  }
})

t.test('a request whose client disconnects during a hook before the handler counts until the handler settles', async t => {
  const target = await createApp(t)
  const { app } = target
  const hooked = new Deferred()
  const hookDone = new Deferred()
  const handled = new Deferred()
  const handlerDone = new Deferred()
  app.get('/', {
    preHandler: async () => {
      hooked.resolve()
      await hookDone.promise
    }
  }, async () => {
    handled.resolve()
    await handlerDone.promise
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/')
  await hooked.promise
  await leave()
  t.equal(app.inFlightRequests, 1)
  hookDone.resolve()
  await handled.promise
  t.equal(app.inFlightRequests, 1)
  handlerDone.resolve()
  await expectNoneInFlight(t, target)
})

for (const http2 of [false, true]) {
  const protocol = http2 ? 'HTTP/2' : 'HTTP/1'
  const visitWithHookAhead = async (t: Test, method: 'GET' | 'POST') => {
    const counted = new Deferred()
    const handled = new Deferred()
    const handlerDone = new Deferred()
    const app = await createAppBehind(t, ahead => {
      ahead.addHook('onRequest', async ({ raw }) => {
        const { stream = raw.socket } = raw as { stream?: Socket }
        const closed = once(stream, 'close')
        leave()
        await closed
      })
    }, { http2 })
    app.addHook('preParsing', async () => { counted.resolve() })
    app.route({
      method,
      url: '/',
      handler: async () => {
        handled.resolve()
        await handlerDone.promise
      }
    })
    const port = await listen(app)
    let leave: () => void
    if (http2) {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      const stream = session.request({ ':path': '/', ':method': method, 'content-type': 'text/plain' }, { endStream: method === 'GET' })
      stream.on('error', () => {})
      if (method === 'POST') stream.write('half')
      leave = () => { stream.close(8) }
      t.teardown(() => { session.destroy() })
    } else {
      const client = new RawClient(port)
      client.send(`${method} / HTTP/1.1\r\nHost: test\r\n${method === 'POST' ? 'Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nwhole' : '\r\n'}`)
      leave = () => { client.socket.destroy() }
    }
    await counted.promise
    return { app, handled: handled.promise, finish: handlerDone.resolve }
  }

  t.test(`${protocol}: a request whose client disconnects during a hook ahead of the plugin's counts until the handler settles`, async t => {
    const { app, handled, finish } = await visitWithHookAhead(t, 'GET')
    await handled
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    finish()
    t.match(await report, { completed: 0, cut: { length: 0 }, exitCode: 0 })
    t.equal(app.inFlightRequests, 0)
  })

  t.test(`${protocol}: a request whose client disconnects during such a hook, before its body is read, does not count`, async t => {
    const { app } = await visitWithHookAhead(t, 'POST')
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: { length: 0 }, exitCode: 0 })
  })
}

/** An async hook ahead of the plugin's holds `/first`, and `/second`, pipelined behind it, overtakes it there. */
async function overtaken (t: Test) {
  const passed = new Deferred()
  const app = await createAppBehind(t, ahead => {
    ahead.addHook('onRequest', async ({ url }) => { if (url === '/first') await passed.promise })
  })
  app.get('/first', async () => 'first')
  const second = heldRoute(app, '/second')
  const { client, leave } = await visit(app, await listen(app))
  client.get('/first').get('/second')
  await second.entered
  return { app, client, leave, pass: passed.resolve, second }
}

t.test('a request that was overtaken in a hook ahead of the plugin ends independently of the other', async t => {
  const { app, client, leave, pass, second } = await overtaken(t)
  pass()
  await client.until(/first$/)
  t.match(app.gracefulShutdown.inFlight(), [{ url: '/second' }])
  await leave()
  t.equal(app.inFlightRequests, 1)
  second.release()
  await expectNoneInFlight(t, { app })
})

t.test('a request that arrived before the shutdown is served, also if a hook ahead of the plugin held it until then', async t => {
  const { app, client, pass, second } = await overtaken(t)
  const report = app.gracefulShutdown.shutdown()
  pass()
  await client.until(/first/)
  second.release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*first[^]*HTTP\/1\.1 200 [^]*connection: close[^]*\{"held":true\}$/i)
  t.match(await report, { completed: 2, refused: 0, cut: { length: 0 }, exitCode: 0 })
})

t.test('requests on one connection that a hook reorders each end once', async t => {
  const waiting: Array<() => void> = []
  const app = await createAppBehind(t, ahead => {
    ahead.addHook('onRequest', async () => { await new Promise<void>(resolve => { waiting.push(resolve) }) })
  })
  app.get('/:name', async request => (request.params as { name: string }).name)
  const client = new RawClient(await listen(app))
  for (const name of ['a', 'b', 'c', 'd', 'e']) client.get(`/${name}`)
  await eventually(() => waiting.length === 5)
  for (const index of [3, 1, 4, 2, 0]) {
    waiting[index]?.()
    await new Promise(resolve => { setImmediate(resolve) })
  }
  await client.until(/a[^]*b[^]*c[^]*d[^]*e$/)
  await expectNoneInFlight(t, { app })
})

for (const [what, answer] of [['text', () => 'answer'], ['a stream', () => Readable.from(['answer'])]] as const) {
  t.test(`callback style: a request whose client disconnects while an onSend hook works on ${what} counts until the response is written`, async t => {
    const target = await createApp(t)
    const { app } = target
    const sending = new Deferred()
    const sent = new Deferred()
    app.addHook('onSend', async () => {
      sending.resolve()
      await sent.promise
    })
    app.get('/', (_request, reply) => { reply.send(answer()) })
    const { client, leave } = await visit(app, await listen(app))
    client.get('/')
    await sending.promise
    await leave()
    t.equal(app.inFlightRequests, 1)
    sent.resolve()
    await expectNoneInFlight(t, target)
  })
}

t.test('a request whose onResponse hook runs late, because of a hook ahead of the plugin, ends independently of others', async t => {
  const told: Record<string, Deferred> = { '/a': new Deferred(), '/b': new Deferred(), '/c': new Deferred(), '/d': new Deferred() }
  const app = await createAppBehind(t, ahead => {
    ahead.addHook('onResponse', async ({ url }) => { await told[url]?.promise })
  })
  app.get('/:name', async request => request.url)
  const { client, leave } = await visit(app, await listen(app))
  for (const url of Object.keys(told)) client.get(url)
  await client.until(/\/a[^]*\/b[^]*\/c[^]*\/d$/)
  t.equal(app.inFlightRequests, 4)
  for (const url of ['/b', '/d', '/a']) {
    told[url]?.resolve()
    const left = app.inFlightRequests - 1
    await eventually(() => app.inFlightRequests === left)
    t.equal(app.gracefulShutdown.inFlight().length, left)
  }
  await leave()
  told['/c']?.resolve()
  await expectNoneInFlight(t, { app })
})

t.test('a request whose client disconnects after it sent the whole body, but before that is read, does not count once the parser waits for it', async t => {
  const target = await createApp(t)
  const { app } = target
  const begun = new Deferred()
  const parsing = new Deferred()
  app.addHook('preParsing', async () => {
    begun.resolve()
    await parsing.promise
  })
  app.post('/', async () => 'never')
  const { client, leave } = await visit(app, await listen(app))
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nwhole')
  await begun.promise
  await leave()
  t.equal(app.inFlightRequests, 1)
  parsing.resolve()
  await eventually(() => app.inFlightRequests === 0)
  await expectNoneInFlight(t, target)
})

t.test('HTTP/2: streams that are answered while their session closes do not count forever', async t => {
  const app = await http2App(t)
  app.get('/soon', async () => await sleep(Math.random() * 20, 'served'))
  const url = `http://127.0.0.1:${await listen(app)}`
  const sessions: ClientHttp2Session[] = []
  for (let index = 0; index < 400; index++) {
    const session = connectHttp2(url).on('error', () => {})
    sessions.push(session)
    for (let count = 0; count < 4; count++) {
      const stream = session.request({ ':path': '/soon' }).on('error', () => {})
      if (Math.random() < 0.5) stream.resume()
      if (Math.random() < 0.3) setTimeout(() => { stream.close(constants.NGHTTP2_NO_ERROR) }, Math.random() * 20)
    }
    setTimeout(() => {
      if (index % 2 === 0) session.close()
      else session.destroy()
      setTimeout(() => { session.destroy() }, 60)
    }, Math.random() * 30)
    if (index % 12 === 0) await sleep(30)
  }
  // On a busy machine, Node 20 does not emit 'close' on each client session; only the server's side matters here.
  const closed = Promise.all(sessions.map(async session => { if (!session.destroyed) await once(session, 'close') }))
  await Promise.race([closed, sleep(10_000, undefined, { ref: false })])
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a request that ends leaves the other entries unchanged', async t => {
  const target = await createApp(t)
  const { app } = target
  const first = heldRoute(app, '/first')
  const second = heldRoute(app, '/second')
  const port = await listen(app)
  const quick = new RawClient(port).get('/first')
  await first.entered
  const { client, leave } = await visit(app, port)
  client.get('/second')
  await second.entered
  first.release()
  await quick.until(/held/)
  await eventually(() => app.inFlightRequests === 1)
  await leave()
  // The plugin learns in the next turn that a handler has settled.
  await new Promise(resolve => { setImmediate(resolve) })
  t.match(app.gracefulShutdown.inFlight(), [{ url: '/second' }], 'only its own handler decides, which still runs')
  second.release()
  await expectNoneInFlight(t, target)
})

t.test('a hook that hijacks the reply and destroys the connection leaves no request in flight', async t => {
  const { app } = await createApp(t)
  app.addHook('onRequest', (request, reply, _done) => {
    reply.hijack()
    request.socket.destroy()
  })
  app.get('/', async () => 'never')
  await new RawClient(await listen(app)).get('/').closed
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

/** Nothing else tells that they have ended: they return no promise. */
const droppers: Record<string, (app: FastifyInstance) => void> = {
  'a hook that destroys the response': app => { app.addHook('onRequest', (_request, reply, _done) => { reply.raw.destroy() }) },
  'a handler that destroys the response': app => { app.get('/', (_request, reply) => { reply.raw.destroy() }) },
  'a handler that destroys the response with an error': app => {
    app.get('/', (_request, reply) => { reply.raw.destroy(Object.assign(new Error('upstream'), { code: 'ECONNRESET', syscall: 'read' })) })
  },
  'a handler that destroys the response later': app => { app.get('/', (_request, reply) => { setTimeout(() => { reply.raw.destroy() }, 20) }) }
}
for (const [what, prepare] of Object.entries(droppers)) {
  t.test(`${what}, and returns no promise, leaves no request in flight`, async t => {
    const { app } = await createApp(t)
    prepare(app)
    const client = new RawClient(await listen(app)).get('/')
    await client.closed
    t.equal(client.text, '')
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('an injected request whose handler destroys the response, and returns no promise, is over', async t => {
  const { app } = await createApp(t)
  app.get('/', (_request, reply) => { reply.raw.destroy() })
  await t.rejects(app.inject('/'), /destroyed/)
  t.equal(app.inFlightRequests, 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

/** Adds a route whose handler returns no promise, and answers when told. */
function callbackRoute (app: FastifyInstance): { entered: Promise<void>, answer: () => void } {
  const entered = new Deferred()
  let late: FastifyReply | undefined
  app.get('/', (_request, reply) => {
    late = reply
    entered.resolve()
  })
  return { entered: entered.promise, answer: () => { late?.send('late') } }
}

t.test('an injected request whose client leaves counts until its handler answers', async t => {
  const { app } = await createApp(t)
  const { entered, answer } = callbackRoute(app)
  const leaving = new AbortController()
  const response = app.inject({ url: '/', signal: leaving.signal })
  await entered
  leaving.abort()
  await t.rejects(response)
  t.equal(app.inFlightRequests, 1)
  answer()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a request whose handler destroys the queued response is over when the connection closes', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const dropped = new Deferred()
  app.get('/', (_request, reply) => {
    reply.raw.destroy()
    dropped.resolve()
  })
  const client = new RawClient(await listen(app)).get('/held').get('/')
  await dropped.promise
  held.release()
  await client.until(/"held":true/)
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
  t.equal(app.inFlightRequests, 0)
})

t.test('a handler that destroys its response does not end the requests behind it in the pipeline, whose handlers still run', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  let answer = () => {}
  app.get('/first', async (_request, reply) => {
    await entered.promise
    reply.raw.destroy()
  })
  app.get('/second', (_request, reply) => {
    answer = () => { reply.send('late') }
    entered.resolve()
  })
  const client = new RawClient(await listen(app)).get('/first').get('/second')
  await client.closed
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  await sleep(100)
  t.equal(app.gracefulShutdown.phase, 'draining')
  answer()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test("a request to a server of the application's own counts until its handler answers, although that server closes its connections", async t => {
  const { app } = await createApp(t)
  const { entered, answer } = callbackRoute(app)
  await app.ready()
  const server = createServer(app.routing).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = new RawClient((server.address() as AddressInfo).port).get('/')
  await entered
  server.close()
  server.closeAllConnections()
  await client.closed
  await sleep(50)
  t.equal(app.inFlightRequests, 1)
  answer()
  await eventually(() => app.inFlightRequests === 0)
})

/** What the application may do when a client leaves; it tells nothing about the handler. */
const reactions: Record<string, (request: IncomingMessage, response: ServerResponse) => void> = {
  "the socket's end with the destruction of the request": request => { request.socket.on('end', () => { request.destroy() }) },
  "the socket's end with the destruction of the response": (request, response) => { request.socket.on('end', () => { response.destroy() }) },
  "the request's abortion with the destruction of the response": (request, response) => { request.on('aborted', () => { response.destroy() }) },
  "the socket's error with the destruction of both": (request, response) => {
    request.socket.on('error', () => {
      request.destroy()
      response.destroy()
    })
  }
}
for (const [what, react] of Object.entries(reactions)) {
  for (const method of ['GET', 'POST']) {
    t.test(`${method}: a handler that answers from a callback counts until then, although the application answers ${what}`, async t => {
      const { app } = await createApp(t)
      const entered = new Deferred()
      let answer = () => {}
      app.addContentTypeParser('*', (_request, _payload, done) => { done(null) })
      app.route({
        method,
        url: '/',
        handler (request, reply) {
          react(request.raw, reply.raw)
          answer = () => { reply.send('late') }
          entered.resolve()
        }
      })
      const { client, gone } = await visit(app, await listen(app))
      client.send(`${method} / HTTP/1.1\r\nHost: x\r\n${method === 'GET' ? '' : 'Content-Type: a/b\r\nContent-Length: 9\r\n'}\r\n`)
      await entered.promise
      if (what.includes('error')) client.socket.resetAndDestroy()
      else client.socket.end()
      await eventually(gone)
      t.equal(app.inFlightRequests, 1)
      answer()
      await eventually(() => app.inFlightRequests === 0)
      t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
    })
  }
}

t.test('a request with raw writes whose client disconnects does not count', async t => {
  const target = await createApp(t)
  const { app } = target
  app.get('/', (_request, reply) => { reply.raw.write('some') })
  const { client, leave } = await visit(app, await listen(app))
  await client.get('/').until(/some/)
  t.equal(app.inFlightRequests, 1)
  await leave()
  t.equal(app.inFlightRequests, 0)
  await expectNoneInFlight(t, target)
})

t.test('a request whose client disconnects after half of the body does not count', async t => {
  const target = await createApp(t)
  const { app } = target
  app.post('/', async () => 'never')
  const client = new RawClient(await listen(app)).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  await expectNoneInFlight(t, target)
})

t.test('a request whose client disconnects after half of the body counts again while an error handler works', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  const released = new Deferred()
  app.setErrorHandler(async () => {
    entered.resolve()
    await released.promise
  })
  app.post('/', async () => 'not reached')
  const client = new RawClient(await listen(app))
  client.send('POST / HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nhalf')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  await entered.promise
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  await sleep(20)
  t.equal(app.gracefulShutdown.phase, 'draining')
  released.resolve()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('a handler that still reads the body after its answer ends when its client disconnects', async t => {
  const target = await createApp(t)
  const { app } = target
  let closes = 0
  app.addContentTypeParser('text/plain', (_request, payload, done) => { done(null, payload) })
  app.post('/', async (request, reply) => {
    reply.raw.on('close', () => { closes++ })
    reply.send('ok')
    await t.rejects(request.raw.toArray())
  })
  const { client, leave } = await visit(app, await listen(app))
  await client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf').until(/ok$/)
  t.equal(app.inFlightRequests, 1)
  await leave()
  await expectNoneInFlight(t, target)
  t.equal(closes, 1)
})

t.test('a request whose client disconnects after the handler, before it has read the response, does not count as completed', async t => {
  const target = await createApp(t)
  const { app } = target
  app.get('/', async () => Buffer.alloc(64 * 1024 * 1024))
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/200 OK/)
  client.socket.pause()
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  client.socket.destroy()
  t.match(await report, { completed: 0, cut: { length: 0 }, exitCode: 0 })
  await expectNoneInFlight(t, target)
})

t.test('an aborted pipeline leaves no request in flight', async t => {
  const target = await createApp(t)
  const { app } = target
  const held = heldRoute(app)
  app.get('/quick', async () => 'quick')
  const client = new RawClient(await listen(app)).get('/held').get('/quick').get('/quick').get('/held')
  await held.entered
  await eventually(() => app.inFlightRequests === 4)
  client.socket.destroy()
  await eventually(() => app.inFlightRequests === 2)
  t.strictSame(app.gracefulShutdown.inFlight().map(entry => 'url' in entry && entry.url), ['/held', '/held'], 'the running handlers still count')
  held.release()
  await expectNoneInFlight(t, target)
})

t.test('each response of a pipeline emits one close event when its client disconnects', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const closes: number[] = []
  app.addHook('onRequest', async (_request, reply) => {
    const index = closes.push(0) - 1
    reply.raw.on('close', () => { (closes[index] as number)++ })
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/held').get('/held')
  await eventually(() => app.inFlightRequests === 2)
  await leave()
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  t.strictSame(closes, [1, 1])
})

t.test('a queued response whose stream has failed stops counting when its client disconnects', async t => {
  const { app } = await createApp(t)
  const slow = heldRoute(app)
  const failed = new Deferred()
  app.get('/stream', async (_request, reply) => {
    const stream = new PassThrough()
    stream.write('part')
    setImmediate(() => { stream.destroy(new Error('the stream fails')) })
    reply.raw.once('error', () => {})
    stream.once('close', () => { failed.resolve() })
    return reply.send(stream)
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/held').get('/stream')
  await Promise.all([slow.entered, failed.promise])
  await leave()
  slow.release()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a long pipeline on one connection keeps at most one finished reply', async t => {
  const target = await createApp(t)
  const { app } = target
  const replies: Array<WeakRef<FastifyReply>> = []
  app.get('/', async (_request, reply) => {
    replies.push(new WeakRef(reply))
    return 'x'
  })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app))
  for (let index = 0; index < 50; index++) client.get('/')
  client.get('/held')
  await held.entered
  await eventually(() => client.text.match(/200 OK/g)?.length === 50)
  t.equal(replies.length, 50)
  // The last of them is referenced by the request behind it.
  await collected(replies.slice(0, -1))
  t.equal(app.inFlightRequests, 1, 'while the last one is not over')
  client.get('/', ['Connection: close'])
  held.release()
  await client.closed
  t.equal(client.text.match(/200 OK/g)?.length, 52)
  await expectNoneInFlight(t, target)
})

t.test('keeps neither the reply of a request that is over nor what its handler returned', async t => {
  const target = await createApp(t)
  const { app } = target
  const kept: Array<WeakRef<object>> = []
  app.get('/', (_request, reply) => {
    const answer = Promise.resolve('x')
    kept.push(new WeakRef(reply), new WeakRef(answer))
    return answer
  })
  const port = await listen(app)
  const idle = new RawClient(port).get('/')
  const over = new RawClient(port).get('/', ['Connection: close'])
  await Promise.all([idle.until(/200 OK/), over.closed])
  t.equal(kept.length, 4)
  await collected(kept)
  await expectNoneInFlight(t, target)
})

t.test('keeps no instance that is closed', async t => {
  const apps: Array<WeakRef<object>> = []
  const use = async () => {
    const app = Fastify() as FastifyInstance
    await app.register(gracefulPlugin)
    const client = new RawClient(await listen(app)).get('/health')
    await client.until(/healthy/)
    await app.close()
    await client.closed
    apps.push(new WeakRef(app))
  }
  await use()
  await use()
  t.equal(apps.length, 2)
  await collected(apps)
})

t.test('keeps no HTTP/2 session that is closed, whoever closes it', async t => {
  const app = await http2App(t)
  const held = heldRoute(app)
  const sessions: Array<WeakRef<object>> = []
  let refuses = false
  app.server.prependListener('session', (session: ServerHttp2Session) => {
    sessions.push(new WeakRef(session))
    if (refuses) session.destroy()
  })
  const port = await listen(app)
  const open = () => connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})

  const closed = open()
  await roundTrip(closed)
  closed.close()
  await once(closed, 'close')

  const left = open()
  left.request({ ':path': '/held' }).on('error', () => {})
  await held.entered
  left.destroy()
  held.release()

  const silent = connect(port, '127.0.0.1')
  await once(silent, 'connect')
  silent.resume().end()
  await once(silent, 'close')

  refuses = true
  await once(open(), 'close')
  t.equal(sessions.length, 4)
  await collected(sessions)
})

t.test('a stream whose client disconnects, or that fails, does not count', async t => {
  const target = await createApp(t)
  const { app } = target
  const source = () => new Readable({ read () {} })
  const quiet = source()
  const started = source()
  const failing = source()
  const returned = source()
  app.get('/quiet', (_request, reply) => { reply.send(quiet) })
  app.get('/returned', (_request, reply) => reply.send(returned))
  app.get('/started', async () => started)
  app.get('/failing', async () => failing)
  const port = await listen(app)

  for (const [url, stream] of [['/quiet', quiet], ['/returned', returned]] as const) {
    const { client, leave } = await visit(app, port)
    client.get(url)
    await eventually(() => app.inFlightRequests === 1)
    await leave()
    t.equal(app.inFlightRequests, 0, url)
    await eventually(() => stream.destroyed)
  }

  started.push('some')
  const two = new RawClient(port).get('/started')
  await two.until(/some/)
  t.equal(app.inFlightRequests, 1)
  two.socket.destroy()
  await eventually(() => app.inFlightRequests === 0)

  failing.push('some')
  const three = new RawClient(port).get('/failing')
  await three.until(/some/)
  failing.destroy(new Error('disk'))
  await three.closed
  await expectNoneInFlight(t, target)
})

t.test('a request with a hijacked reply is over when its response or its socket is', async t => {
  const target = await createApp(t)
  const { app } = target
  const replies: FastifyReply[] = []
  app.get('/', async (_request, reply) => {
    reply.hijack()
    reply.raw.write('some')
    replies.push(reply)
    await once(reply.raw, 'close')
  })
  app.get('/early', (_request, reply) => {
    reply.hijack()
    replies.push(reply)
  })
  const port = await listen(app)
  const ended = new RawClient(port).get('/')
  await ended.until(/some/)
  t.equal(app.inFlightRequests, 1)
  replies[0]?.raw.end()
  await eventually(() => app.inFlightRequests === 0)
  for (const url of ['/', '/early']) {
    const left = new RawClient(port).get(url)
    await eventually(() => app.inFlightRequests === 1)
    left.socket.destroy()
    await eventually(() => app.inFlightRequests === 0)
  }
  ended.socket.destroy()
  await expectNoneInFlight(t, target)
})

t.test('a handler that waits for a response that it has detached from its connection goes on when its client disconnects', async t => {
  const { app } = await createApp(t)
  app.get('/', async (request, reply) => {
    reply.hijack()
    reply.raw.detachSocket(request.raw.socket)
    await once(reply.raw, 'close')
  })
  const { client, leave } = await visit(app, await listen(app))
  client.get('/')
  await eventually(() => app.inFlightRequests === 1)
  await leave()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a WebSocket does not count, and is closed', async t => {
  const target = await createApp(t)
  const { app } = target
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  const port = await listen(app)
  const client = new WebSocket(`ws://127.0.0.1:${port}/ws`)
  await once(client as unknown as EventTarget, 'message')
  t.equal(app.inFlightRequests, 0)
  const closed = once(client as unknown as EventTarget, 'close')
  await expectNoneInFlight(t, target)
  const [{ wasClean }] = await closed as [{ wasClean: boolean }]
  t.ok(wasClean)
})

t.test('a WebSocket handshake while draining is rejected', async t => {
  const target = await createApp(t)
  const { app } = target
  await app.register(websocket)
  app.register(async instance => {
    instance.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  })
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const client = new RawClient(port).get('/ws', HANDSHAKE)
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503/)
  held.release()
  await busy.closed
  t.match(await report, { refused: 1, completed: 1, exitCode: 0 })
})

t.test('a raw upgrade that no code closes does not delay the shutdown', async t => {
  const target = await createApp(t)
  const { app } = target
  app.server.on('upgrade', (_request, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n') })
  const client = new RawClient(await listen(app)).get('/', ['Connection: Upgrade', 'Upgrade: x'])
  await client.until(/101/)
  t.equal(app.inFlightRequests, 0)
  await expectNoneInFlight(t, target)
  await client.closed
})

t.test('keeps nothing of a request with a malformed URL, for which Fastify runs no hook', async t => {
  const target = await createApp(t)
  const { app } = target
  const requests: Array<WeakRef<object>> = []
  app.server.on('request', (request: object) => { requests.push(new WeakRef(request)) })
  const port = await listen(app)
  const clients = [[], ['Connection: close']].map(headers => new RawClient(port).get('/%zz', headers))
  await Promise.all(clients.map(async client => { await client.until(/400 Bad Request[^]*\}$/) }))
  t.equal(app.inFlightRequests, 0)
  for (const { socket } of clients) socket.destroy()
  t.equal(requests.length, 2)
  await collected(requests)
  await expectNoneInFlight(t, target)
})

t.test('keeps nothing of a rejected request whose client disconnects while a hook holds it, if that hook never ends', async t => {
  const requests: Array<WeakRef<object>> = []
  const app = await createAppBehind(t, parent => {
    parent.addHook('onRequest', async ({ url, raw }) => {
      if (url === '/held') return
      requests.push(new WeakRef(raw))
      await new Promise(() => {})
    })
  })
  const { entered, release } = heldRoute(app)
  const port = await listen(app)
  const held = new RawClient(port).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  const late = Array.from({ length: 2 }, () => new RawClient(port).get('/late'))
  await eventually(() => requests.length === late.length)
  for (const { socket } of late) socket.destroy()
  await collected(requests)
  t.equal(app.inFlightRequests, 1)
  release()
  t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  t.match(held.text, /200 OK/)
})

t.test('a malformed request does not count', async t => {
  const target = await createApp(t)
  const { app } = target
  const client = new RawClient(await listen(app)).send('NONSENSE\r\n\r\n')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 400/)
  await expectNoneInFlight(t, target)
})

t.test('HTTP/2: counts streams, and one that its client resets until its handler settles', async t => {
  const app = await http2App(t)
  const held = heldRoute(app)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  await roundTrip(session)
  await eventually(() => app.inFlightRequests === 0)

  const stream = session.request({ ':path': '/held' })
  stream.on('error', () => {})
  await held.entered
  t.equal(app.inFlightRequests, 1)
  stream.close(8)
  await once(stream, 'close')
  await roundTrip(session)
  t.equal(app.inFlightRequests, 1, 'the handler still runs')
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { completed: 0, cut: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2: a response that its handler sends with methods of the stream counts until it has been sent, and is then completed', async t => {
  const app = await http2App(t)
  const file = `${t.testdir({ file: 'x'.repeat(1_000_000) })}/file`
  const answer = (path: string, respond: (stream: ServerHttp2Stream) => void) => app.get(path, (_request, reply) => {
    reply.hijack()
    respond((reply.raw as unknown as Http2ServerResponse).stream)
  })
  const released = new Deferred()
  answer('/whole', stream => {
    stream.respond()
    void released.promise.then(() => { stream.end('whole') })
  })
  answer('/file', stream => { stream.respondWithFile(file) })
  answer('/half', stream => {
    stream.respond()
    stream.write('half')
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const open = (path: string) => session.request({ ':path': path }).on('error', () => {})
  const streams = ['/whole', '/file', '/half'].map(open) as [ClientHttp2Stream, ClientHttp2Stream, ClientHttp2Stream]
  await Promise.all(streams.map(async stream => { await once(stream, 'response') }))
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.inFlightRequests, 3)
  const [whole, big, half] = streams
  half.close(constants.NGHTTP2_NO_ERROR)
  await eventually(() => app.inFlightRequests === 2)
  whole.resume()
  released.resolve()
  await eventually(() => app.inFlightRequests === 1)
  t.match(app.gracefulShutdown.inFlight(), [{ url: '/file' }], 'its client has not read it')
  big.resume()
  t.match(await report, { completed: 2, cut: { length: 0 }, exitCode: 0 })
})

for (const when of ['while it is read', 'during a hook before it is read'] as const) {
  t.test(`HTTP/2: a request that its client resets with half of the body sent, ${when}, does not count`, async t => {
    const app = await http2App(t)
    const hooked = new Deferred()
    const hookDone = new Deferred()
    if (when === 'while it is read') hookDone.resolve()
    app.post('/', {
      preParsing: async () => {
        hooked.resolve()
        await hookDone.promise
      }
    }, async () => 'not read')
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
    const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'text/plain' })
    stream.on('error', () => {})
    stream.write('half')
    await hooked.promise
    await roundTrip(session)
    t.equal(app.inFlightRequests, 1)
    stream.close(8)
    await roundTrip(session)
    // Fastify now listens for a body that receives no further events.
    hookDone.resolve()
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('HTTP/2: a request whose connection is lost while its body is read counts until the handler settles', async t => {
  const app = await http2App(t)
  const entered = new Deferred()
  const released = new Deferred()
  app.post('/', async () => {
    entered.resolve()
    await released.promise
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'text/plain' })
  stream.on('error', () => {})
  stream.write('half')
  await eventually(() => app.inFlightRequests === 1)
  await roundTrip(session)
  session.destroy()
  // Fastify 5.12 takes the part received so far for the whole body.
  await entered.promise
  t.equal(app.inFlightRequests, 1)
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

/** One frame of HTTP/2, of stream 1 unless it is a SETTINGS frame. */
function frame (type: number, flags: number, payload: Buffer): Buffer {
  const head = Buffer.from([0, 0, payload.length, type, flags, 0, 0, 0, type === 4 ? 0 : 1])
  return Buffer.concat([head, payload])
}

t.test('HTTP/2: an upload that arrives together with its reset, and that Fastify takes for whole, counts until the handler is done', async t => {
  const app = await http2App(t)
  const counts: number[] = []
  const events: string[] = []
  const released = new Deferred()
  const reached = new Deferred()
  app.addHook('preHandler', async () => {
    counts.push(app.inFlightRequests)
    reached.resolve()
    await released.promise
  })
  app.addHook('onClose', async () => { events.push('closed') })
  app.post('/', async request => { events.push(`handled ${JSON.stringify(request.body)}`) })
  const socket = connect(await listen(app), '127.0.0.1')
  t.teardown(() => { socket.destroy() })
  // POST http://a/ with a content-type, in HPACK without compression.
  const literal = (index: number[], value: string) => Buffer.from([...index, value.length, ...Buffer.from(value)])
  const headers = Buffer.concat([Buffer.from([0x83, 0x86]), literal([4], '/'), literal([1], 'a'), literal([0x0f, 0x10], 'application/json')])
  socket.write(Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, Buffer.alloc(0)),
    frame(1, 4, headers), frame(0, 0, Buffer.from('{"id":1}')), frame(3, 0, Buffer.from([0, 0, 0, 8]))
  ]))
  await reached.promise
  await sleep(50)
  t.strictSame([...counts, app.inFlightRequests], [1, 1])
  const report = app.gracefulShutdown.shutdown()
  await sleep(50)
  t.strictSame(events, [])
  released.resolve()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['handled {"id":1}', 'closed'])
})

for (const method of ['GET', 'POST']) {
  t.test(`HTTP/2: a ${method} that its client resets during a hook before the handler counts until the handler settles`, async t => {
    const app = await http2App(t)
    const hooked = new Deferred()
    const hookDone = new Deferred()
    const handled = new Deferred()
    const handlerDone = new Deferred()
    app.route({
      method,
      url: '/',
      preHandler: async () => {
        hooked.resolve()
        await hookDone.promise
      },
      handler: async () => {
        handled.resolve()
        await handlerDone.promise
      }
    })
    const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
    const stream = session.request({ ':path': '/', ':method': method, ...method === 'POST' && { 'content-type': 'text/plain' } })
    stream.on('error', () => {})
    if (method === 'POST') stream.write('whole')
    stream.end()
    await hooked.promise
    stream.close(8)
    await roundTrip(session)
    t.equal(app.inFlightRequests, 1, 'the hook still runs')
    hookDone.resolve()
    await handled.promise
    t.equal(app.inFlightRequests, 1, 'the handler still runs')
    handlerDone.resolve()
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('HTTP/2: a request whose handler gets the upload as a stream counts until it responds, also if the upload is aborted', async t => {
  const app = await http2App(t)
  const entered = new Deferred()
  const released = new Deferred()
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => { done(null, payload) })
  app.post('/', (_request, reply) => {
    entered.resolve()
    void released.promise.then(() => { reply.send('done') })
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const stream = session.request({ ':path': '/', ':method': 'POST', 'content-type': 'application/octet-stream' })
  stream.on('error', () => {})
  stream.write('half')
  await entered.promise
  stream.close(8)
  await roundTrip(session)
  t.equal(app.inFlightRequests, 1, 'the handler still runs')
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: { length: 0 }, exitCode: 0 })
})

t.test('an injected request counts, also when it is aborted', async t => {
  const target = await createApp(t)
  const { app } = target
  const held = heldRoute(app)
  const controller = new AbortController()
  const answer = app.inject({ url: '/held', signal: controller.signal })
  await held.entered
  controller.abort()
  await t.rejects(answer)
  held.release()
  await expectNoneInFlight(t, target)
})

t.test('track() makes the drain wait for background work, and shows it', async t => {
  const { app } = await createApp(t)
  const { gracefulShutdown } = app
  const work = new Deferred<number>()
  t.equal(gracefulShutdown.track(work.promise, 'reindex'), work.promise, 'returns the promise')
  const failing = new Deferred()
  gracefulShutdown.track(failing.promise).catch(() => {})
  t.match(gracefulShutdown.inFlight(), [{ kind: 'task', name: 'reindex' }, { kind: 'task', name: 'task' }])
  t.equal(app.inFlightRequests, 0, 'it is not a request')
  let done = false
  const report = gracefulShutdown.shutdown().finally(() => { done = true })
  failing.reject(new Error('failed work is over, too'))
  await eventually(() => gracefulShutdown.inFlight().length === 1)
  t.equal(gracefulShutdown.phase, 'draining')
  t.notOk(done)
  work.resolve(1)
  t.match(await report, { cut: { length: 0 }, completed: 0, errors: [{ message: 'failed work is over, too' }], exitCode: 1 })
  for (const value of [undefined, null, 1, {}]) {
    t.throws(() => { void gracefulShutdown.track(value as Promise<void>) }, { code: 'FST_ERR_GRACEFUL_TRACK_INVALID' })
  }
})

t.test('track() with a function starts the work, passes the signal, and returns a promise of its result', async t => {
  const { app } = await createApp(t)
  const { gracefulShutdown } = app
  const started: AbortSignal[] = []
  const work = new Deferred<number>()
  const result = gracefulShutdown.track(async signal => {
    started.push(signal)
    return await work.promise
  }, 'reindex')
  t.strictSame(started, [gracefulShutdown.signal], 'at once')
  t.equal(await gracefulShutdown.track(() => 'a value'), 'a value')
  await t.rejects(gracefulShutdown.track(() => { throw new Error('at once') }, 'throws'), { message: 'at once' })
  t.match(gracefulShutdown.inFlight(), [{ kind: 'task', name: 'reindex' }])
  const report = gracefulShutdown.shutdown()
  t.ok(started[0]?.aborted)
  t.equal(gracefulShutdown.phase, 'draining')
  work.resolve(1)
  t.equal(await result, 1)
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('a request from a server of the application counts, also if its client disconnects', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  await app.ready()
  const server = createServer((request, response) => { app.routing(request, response) }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const connected = once(server, 'connection') as Promise<[Socket]>
  const client = new RawClient((server.address() as AddressInfo).port).get('/held')
  const [socket] = await connected
  await held.entered
  const gone = new Promise(resolve => { socket.on('close', resolve) })
  client.socket.destroy()
  await gone
  t.equal(app.inFlightRequests, 1, 'its handler still runs')
  held.release()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: { length: 0 }, exitCode: 0 })
})

for (const protocol of ['HTTP/1', 'HTTP/2']) {
  for (const how of ['sends', 'pipes']) {
    t.test(`a request for which a hook ${how} a stream, and whose client disconnects before the first byte, is over (${protocol})`, async t => {
      const { app } = await createApp(t, {}, protocol === 'HTTP/2' ? { http2: true } as object : {})
      const entered = new Deferred()
      app.addHook('preHandler', (_request, reply) => {
        const stream = new PassThrough()
        if (how === 'sends') reply.send(stream)
        else stream.pipe(reply.raw)
        entered.resolve()
      })
      app.get('/', async () => 'not reached')
      const port = await listen(app)
      if (protocol === 'HTTP/2') {
        const session = connectHttp2(`http://127.0.0.1:${port}`)
        t.teardown(() => { session.destroy() })
        const stream = session.request({ ':path': '/' }).on('error', () => {})
        await entered.promise
        stream.close()
      } else {
        const client = new RawClient(port).get('/')
        await entered.promise
        client.socket.destroy()
      }
      await eventually(() => app.inFlightRequests === 0)
      t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
    })
  }
}

/** Streams whose first byte does not come, and that end without an error if they are destroyed. */
const fromWeb: Record<string, () => Readable> = {
  'a stream that waits': () => Readable.fromWeb(new ReadableStream({ pull: async () => { await new Promise(() => {}) } })),
  // It is only over when its iterator has returned.
  'an iterator that waits': () => Readable.fromWeb(ReadableStream.from((async function * () {
    await sleep(300)
    yield 'x'
  })())),
  'the body of a response': () => Readable.fromWeb(new Response(new ReadableStream()).body as ReadableStream),
  'a duplex stream': () => Duplex.fromWeb(new TransformStream())
}

for (const [what, make] of Object.entries(fromWeb)) {
  for (const when of ['before the shutdown', 'while it drains']) {
    t.test(`a request that is answered with ${what}, made from a web stream, and whose client disconnects ${when}, is over`, async t => {
      const { app, log } = await createApp(t)
      const entered: string[] = []
      const answer = async (request: FastifyRequest) => {
        // Of a request that has been read to its end, Fastify does not see that it is aborted.
        for await (const _ of request.raw) { /* nothing is in it */ }
        entered.push(request.url)
        return make()
      }
      app.post('/', async (request, reply) => {
        entered.push(request.url)
        return await reply.send(make())
      })
      app.get('/get', answer)
      app.setNotFoundHandler(answer)
      const port = await listen(app)
      const clients = [
        new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}'),
        new RawClient(port).get('/get'), new RawClient(port).get('/missing')
      ]
      await eventually(() => entered.length === clients.length)
      const leave = () => { for (const { socket } of clients) socket.destroy() }
      if (when === 'before the shutdown') {
        leave()
        await eventually(() => app.inFlightRequests === 0)
      }
      const report = app.gracefulShutdown.shutdown()
      if (when === 'while it drains') {
        await log.line(/Waiting for 3 in-flight requests/)
        leave()
      }
      t.match(await report, { cut: { length: 0 }, exitCode: 0 })
    })
  }
}

/** Handlers whose promises never settle, and their requests. */
const endless: Record<string, (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>> = {
  'that answers, as those of @connectrpc/connect-fastify do': async (_request, { raw }) => {
    // A response never emits 'end'.
    await new Promise(resolve => {
      raw.once('end', resolve)
      raw.end('answered')
    })
  },
  'whose client disconnects': async request => {
    await new Promise(resolve => { request.raw.once('leave', resolve) })
  }
}

/** Returns what makes their clients disconnect. */
function fiveRequests (isHttp2: boolean, port: number): () => void {
  if (isHttp2) {
    const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
    for (let count = 0; count < 5; count++) session.request({ ':path': '/' }).on('error', () => {}).resume()
    return () => { session.destroy() }
  }
  const clients = Array.from({ length: 5 }, () => new RawClient(port).get('/'))
  return () => { for (const { socket } of clients) socket.destroy() }
}

for (const isHttp2 of [false, true]) {
  for (const [what, handler] of Object.entries(endless)) {
    const name = `${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a handler ${what}`
    t.test(`${name}, and whose promise nothing can settle, counts until that is garbage`, async t => {
      const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
      app.get('/', handler)
      const leave = fiveRequests(isHttp2, await listen(app))
      await eventually(() => app.inFlightRequests === 5)
      leave()
      // Until the next sweep, which lets go of them.
      await afterCollecting(() => app.inFlightRequests === 0)
      const { completed, cut, exitCode } = await app.gracefulShutdown.shutdown()
      t.strictSame({ completed, cut, exitCode }, { completed: 0, cut: [], exitCode: 0 })
    })
  }
}

t.test('a stream that Fastify leaves open, because its HTTP/2 client has disconnected, no longer counts once it is garbage', async t => {
  const { app } = await createApp(t, { readTimeout: 200 }, { http2: true } as object)
  const [entered, gone] = [new Deferred(), new Deferred()]
  app.get('/', async (_request, reply) => {
    reply.raw.once('close', () => { setImmediate(gone.resolve) })
    entered.resolve()
    await gone.promise
    return Readable.from(Array.from({ length: 1_000 }, () => 'row'))
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  session.request({ ':path': '/' }).on('error', () => {})
  await entered.promise
  session.destroy()
  await gone.promise
  await afterCollecting(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a handler that may still go on counts, although only a timer refers to it', async t => {
  const { app } = await createApp(t)
  let cleanedUp = false
  app.registerShutdownCallback(() => { cleanedUp = true })
  app.get('/', async (_request, reply) => {
    void reply.send('answered')
    await sleep(2_500)
    t.equal(cleanedUp, false)
  })
  await new RawClient(await listen(app)).get('/').until(/answered/)
  every(t, 200, collectGarbage)
  // The sweep runs each second.
  await sleep(1_500)
  t.equal(app.inFlightRequests, 1)
  t.match(await app.gracefulShutdown.shutdown(), { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test("with waitFor: 'response', a request is over when it has been answered", async t => {
  const { app } = await createApp(t)
  app.addHook('onRoute', route => {
    if (route.url === '/') route.config = { ...route.config, gracefulShutdown: { waitFor: 'response' } }
  })
  const held = new Deferred()
  app.get('/', async (_request, reply) => {
    await held.promise
    void reply.send('answered')
    await new Promise(() => {})
  })
  const client = new RawClient(await listen(app)).get('/')
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.inFlightRequests, 1)
  held.resolve()
  await client.until(/answered/)
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('requests that were answered without a hook before the shutdown are not in its report', async t => {
  const { app } = await createApp(t)
  const client = new RawClient(await listen(app))
  await client.get('/%zz').until(/Bad Request/)
  t.match(await app.gracefulShutdown.shutdown(), { completed: 0, slowest: { length: 0 }, cut: { length: 0 }, exitCode: 0 })
})

t.test('requests that are answered without a hook are over as soon as they are answered', async t => {
  const { app } = await createApp(t, { readTimeout: false, writeTimeout: false })
  const client = new RawClient(await listen(app))
  for (let request = 1; request <= 3; request++) {
    await client.get('/%zz').until(new RegExp(`(?:Bad Request[^]*){${request}}`))
    t.equal(app.inFlightRequests, 0)
    t.strictSame(app.gracefulShutdown.inFlight(), [])
    t.match(await app.inject('/ready'), { statusCode: 200, body: '"in_flight_requests":0' })
  }
})

for (const paths of [['/held', '/%zz'], ['/held', '/%zz', '/nowhere']]) {
  t.test(`the drain does not wait for a request that is answered without a hook: ${paths.join()}`, async t => {
    // Shorter than the interval of the sweep.
    const { app } = await createApp(t, { drainTimeout: 800, readTimeout: false, writeTimeout: false })
    const { entered, release } = heldRoute(app)
    const client = new RawClient(await listen(app))
    client.send(paths.map(path => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''))
    await entered
    const report = app.gracefulShutdown.shutdown()
    release()
    t.match(await report, { completed: paths.length, cut: { length: 0 }, exitCode: 0 })
  })
}

t.test("with waitFor: 'response', a request whose client has disconnected is over when its handler is", async t => {
  const { app } = await createApp(t)
  const left = new Deferred()
  app.get('/', { config: { gracefulShutdown: { waitFor: 'response' } } }, async (_request, { raw }) => {
    raw.on('close', () => { left.resolve() })
    await left.promise
  })
  const client = new RawClient(await listen(app)).get('/')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('requests that another server passes on, or that are injected, do not count forever', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 50 })
  app.get('/silent', () => {})
  app.get('/endless', endless['that answers, as those of @connectrpc/connect-fastify do'] as never)
  await app.ready()
  const server = createServer(app.routing).listen(0, '127.0.0.1')
  t.teardown(() => { server.close() })
  await once(server, 'listening')
  // Twice, because the sweep ends with the last request.
  for (let round = 1; round <= 2; round++) {
    const client = new RawClient((server.address() as AddressInfo).port).get('/silent')
    await eventually(() => app.inFlightRequests === 1)
    client.socket.destroy()
    await app.inject('/endless')
    await afterCollecting(() => app.inFlightRequests === 0)
    t.equal(log.messages(/has not ended since its client disconnected/).length, round)
  }
})

for (const where of ['an onClose hook', 'a shutdown callback']) {
  t.test(`work that ${where} tracks is waited for, and cut if it does not end in time`, async t => {
    for (const ends of [true, false]) {
      const { app } = await createApp(t, { shutdownTimeout: 2_000, drainTimeout: 500 })
      let isSaved = false
      const save = async () => {
        await sleep(ends ? 100 : 60_000, undefined, { ref: false })
        isSaved = true
      }
      const track = () => { void app.gracefulShutdown.track(save(), 'save') }
      if (where === 'an onClose hook') app.addHook('onClose', async () => { track() })
      else app.registerShutdownCallback(track)
      await listen(app)
      const { cut, exitCode } = await app.gracefulShutdown.shutdown()
      t.equal(isSaved, ends)
      t.equal(exitCode, ends ? 0 : 1)
      t.match(cut, ends ? [] : [{ kind: 'task', name: 'save' }])
    }
  })
}

t.test('work that is tracked shortly before drainTimeout causes no warning of Node', async t => {
  const warnings: Error[] = []
  const warn = (warning: Error) => { warnings.push(warning) }
  process.on('warning', warn)
  t.teardown(() => { process.off('warning', warn) })
  const { app, log } = await createApp(t, { drainTimeout: 1_200 })
  app.get('/', async () => 'served')
  const held = heldRoute(app)
  const port = await listen(app)
  const [idle] = [new RawClient(port).get('/'), new RawClient(port).get('/held')]
  await Promise.all([idle.until(/served/), held.entered])
  const start = performance.now()
  const report = app.gracefulShutdown.shutdown()
  // Then a spread would have to end.
  await eventually(() => performance.now() - start > 910)
  held.release()
  await log.line(/^All requests drained/)
  void app.gracefulShutdown.track(sleep(150), 'late')
  await report
  t.strictSame(warnings, [])
})
