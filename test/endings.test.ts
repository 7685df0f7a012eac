// Connections that end during a shutdown before their requests are answered: those that this process loses are named as cut.

import t from 'tap'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import type { RequestInFlight } from '../types/index.ts'
import { once } from 'node:events'
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { pipeline, Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createCredentials } from './credentials.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import { checkOften, createApp, Deferred, eventually, heldRoute, listen, listenOnLocalhost, processorTime, RawClient } from './helpers.ts'

// Most of the time they wait.
t.jobs = 4
t.teardown(resolveToBothLoopbacks())

for (const protocol of ['HTTP', 'HTTPS']) {
  t.test(`${protocol}: requests whose connections the application closes with closeAllConnections() during a shutdown are named as cut`, async t => {
    const isTls = protocol === 'HTTPS'
    const { key, cert } = await createCredentials()
    const { app, log } = await createApp(t, {}, isTls ? { https: { key, cert } } as object : {})
    const { entered, release } = heldRoute(app)
    app.addHook('preClose', async () => { app.server.closeAllConnections() })
    const port = await listen(app)
    const client = new RawClient(isTls ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : port).get('/held')
    await entered
    const report = app.gracefulShutdown.shutdown()
    await client.closed
    release()
    t.match(await report, { cut: [{ route: '/held' }], exitCode: 1 })
    t.match(await log.line(/^Request cut: Other code in this process has closed the connection/), { code: 'FST_ERR_GRACEFUL_CONNECTION_CLOSED' })
  })
}

/** What an upstream closes its connection with. */
const upstreamReset = () => Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', errno: -104, syscall: 'read' })

const UNREAD = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
const READ = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}'
const RECEIVING = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-raw\r\nContent-Length: 10\r\n\r\nbegun'

interface End {
  sent?: string
  server?: object
  /** A TLS socket ends when its client has half-closed. */
  isPlainOnly?: boolean
  isCut: boolean
  end: (request: FastifyRequest, reply: FastifyReply, client: { client: Socket, transport: Socket }) => unknown
}

/** Who ends the connection of a request in flight during a shutdown, and how; and whether the request is then named as cut. */
const ENDS: Record<string, End> = {
  'other code destroys its socket': { isCut: true, end: ({ raw }) => raw.socket.destroy() },
  'other code destroys its socket with an error': { isCut: true, end: ({ raw }) => raw.socket.destroy(new Error('on purpose')) },
  'other code destroys its socket with an error that has a code': {
    isCut: true,
    end: ({ raw }) => raw.socket.destroy(Object.assign(new Error('on purpose'), { code: 'ABORT_ERR' }))
  },
  'other code destroys its socket, because its own connection failed': {
    isCut: true,
    end: ({ raw }) => raw.socket.destroy(Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', syscall: 'connect' }))
  },
  'other code destroys its socket after the body has been read': { sent: READ, isCut: true, end: ({ raw }) => raw.socket.destroy() },
  'other code destroys its socket after the client has half-closed': {
    isPlainOnly: true,
    isCut: true,
    end: async ({ raw, server: { server } }, _reply, { client }) => {
      Object.assign(server, { httpAllowHalfOpen: true })
      client.end()
      await once(raw.socket, 'end')
      raw.socket.destroy()
    }
  },
  'other code ends its socket, and the client closes its side in reply': { isCut: true, end: ({ raw }) => { raw.socket.end() } },
  'other code ends its socket, and the client resets the connection': {
    isPlainOnly: true,
    isCut: true,
    end: ({ raw }, _reply, { client, transport }) => {
      client.allowHalfOpen = true
      client.once('end', () => { transport.resetAndDestroy() })
      raw.socket.end()
    }
  },
  'other code ends its socket while the body is being received, and the client closes its side in reply': {
    sent: RECEIVING,
    isCut: true,
    end: ({ raw }) => { raw.socket.end() }
  },
  'the handler has hijacked the reply, and ends and destroys the socket itself': {
    isCut: false,
    end: ({ raw }, reply) => {
      reply.hijack()
      raw.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', () => { raw.socket.destroy() })
    }
  },
  'other code ends the socket of a hijacked reply that has begun': {
    isCut: true,
    end: ({ raw }, reply) => {
      reply.hijack()
      reply.raw.write('begun')
      raw.socket.end()
    }
  },
  'the handler has hijacked the reply, and ends the socket itself': {
    isCut: false,
    end: ({ raw }, reply) => {
      reply.hijack()
      raw.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
    }
  },
  'the handler destroys its response': { isCut: false, end: (_request, { raw }) => raw.destroy() },
  'the handler destroys its response after the body has been read': { sent: READ, isCut: false, end: (_request, { raw }) => raw.destroy() },
  'the handler destroys its request': { isCut: false, end: ({ raw }) => raw.destroy() },
  'the handler destroys its request with an error': { isCut: false, end: ({ raw }) => raw.destroy(new Error('on purpose')) },
  'the handler destroys its request with the error of its upstream': { isCut: false, end: ({ raw }) => raw.destroy(upstreamReset()) },
  'the client disconnects after the body has been read': { sent: READ, isCut: false, end: (_request, _reply, { transport }) => transport.destroy() },
  'the client sends what Node cannot parse': { isCut: false, end: (_request, _reply, { client }) => { client.write('NONSENSE\r\n\r\n') } },
  'the client sends what Node cannot parse, and a clientErrorHandler ends the socket': {
    server: { clientErrorHandler: (_error: Error, socket: Socket) => { socket.end('HTTP/1.1 400 Bad Request\r\n\r\n') } },
    isCut: false,
    end: (_request, _reply, { client }) => { client.write('NONSENSE\r\n\r\n') }
  },
  'the client disconnects': { isCut: false, end: (_request, _reply, { transport }) => transport.destroy() },
  'the client resets the connection': { isCut: false, end: (_request, _reply, { transport }) => transport.resetAndDestroy() }
}

for (const isTls of [false, true]) {
  for (const [what, { isCut, end, sent = UNREAD, server = {}, isPlainOnly = false }] of Object.entries(ENDS)) {
    if (isTls && isPlainOnly) continue
    t.test(`${isTls ? 'HTTPS' : 'HTTP'}: if ${what} during a shutdown, the requests of the connection are ${isCut ? '' : 'not '}named as cut`, async t => {
      const { key, cert } = await createCredentials()
      const { app, log } = await createApp(t, {}, { ...server, ...isTls ? { https: { key, cert } } : {} })
      const entered = new Deferred<[FastifyRequest, FastifyReply]>()
      const gone = new Deferred()
      app.addContentTypeParser('application/x-raw', (_request, _payload, done) => { done(null) })
      app.route({ method: ['GET', 'POST'], url: '/', handler: async (request, reply) => {
        request.raw.socket.once('close', gone.resolve)
        entered.resolve([request, reply])
        await gone.promise
        return 'too late'
      } })
      const port = await listen(app)
      const transport = connectTcp(port, '127.0.0.1')
      const client = isTls ? connectTls({ socket: transport, rejectUnauthorized: false }) : transport
      client.on('error', () => {}).resume().write(sent)
      const [request, reply] = await entered.promise
      const report = app.gracefulShutdown.shutdown()
      await end(request, reply, { client, transport })
      t.match(await report, { cut: { length: isCut ? 1 : 0 }, exitCode: isCut ? 1 : 0 })
      t.equal(log.messages(/^Request cut: Other code in this process has closed the connection/).length, isCut ? 1 : 0)
    })
  }
}

/** Listens on `localhost`, and connects to the listener that is not `app.server`. */
async function connectToSecond (app: FastifyInstance): Promise<RawClient> {
  await listenOnLocalhost(app)
  const { address } = app.server.address() as AddressInfo
  const other = app.addresses().find(listener => (listener as AddressInfo).address !== address) as AddressInfo
  return new RawClient(connectTcp(other.port, other.address))
}

t.test('a client that leaves after closeAllConnections() of another listener of the instance is not named as cut', async t => {
  const { app } = await createApp(t)
  const gone = new Deferred()
  app.addHook('onRequest', async ({ raw }) => { raw.socket.on('close', () => { gone.resolve() }) })
  const { entered, release } = heldRoute(app)
  const client = (await connectToSecond(app)).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  app.server.closeAllConnections()
  await new Promise(setImmediate)
  t.equal(client.socket.closed, false)
  client.socket.destroy()
  await gone.promise
  release()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('with forceCloseConnections: true, requests that Fastify loses after other code has closed the first listener are named as cut', async t => {
  const { app } = await createApp(t, {}, { forceCloseConnections: true })
  const { entered, release } = heldRoute(app)
  app.addHook('preClose', async () => { app.server.close() })
  const client = (await connectToSecond(app)).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  await client.closed
  release()
  t.match(await report, { cut: [{ route: '/held' }], exitCode: 1 })
})

async function * failing (error: Error, fail: Promise<void>): AsyncGenerator<string> {
  yield 'begun'
  await fail
  throw error
}

/** How the first request of a pipeline loses the second one, and whether it is named, too. */
const LOSERS: Record<string, { isNamed?: boolean, handle: (reply: FastifyReply, lose: Promise<void>) => void }> = {
  'a stream that a handler has sent fails': {
    handle: (reply, lose) => { void reply.send(Readable.from(failing(new Error('disk'), lose))) }
  },
  'the upstream of a hijacked reply resets its connection': {
    handle: (reply, lose) => {
      reply.hijack()
      reply.raw.writeHead(200, { 'content-length': 100 })
      pipeline(Readable.from(failing(upstreamReset(), lose)), reply.raw, () => {})
    }
  },
  'a handler destroys its request with the error of its upstream': {
    handle: (reply, lose) => {
      reply.hijack()
      void lose.then(() => { reply.request.raw.destroy(upstreamReset()) })
    }
  },
  'a handler destroys its response': { handle: ({ raw }, lose) => { void lose.then(() => { raw.destroy() }) } },
  'other code calls closeAllConnections()': {
    isNamed: true,
    handle: (reply, lose) => {
      reply.raw.once('close', () => { void reply.send('too late') })
      void lose.then(() => { reply.server.server.closeAllConnections() })
    }
  }
}
for (const [what, { isNamed = false, handle }] of Object.entries(LOSERS)) {
  t.test(`if ${what} during a shutdown, the next request in the pipeline is named as cut`, async t => {
    const { app } = await createApp(t)
    const lose = new Deferred()
    const left = new Deferred()
    const entered = new Deferred()
    app.get('/first', (_request, reply) => { handle(reply, lose.promise) })
    app.get('/second', async () => {
      entered.resolve()
      await left.promise
      return 'too late'
    })
    const client = new RawClient(await listen(app)).get('/first').get('/second')
    await entered.promise
    const report = app.gracefulShutdown.shutdown()
    lose.resolve()
    await client.closed
    left.resolve()
    const { cut, exitCode } = await report
    t.strictSame(cut.map(entry => (entry as RequestInFlight).url), isNamed ? ['/first', '/second'] : ['/second'])
    t.equal(exitCode, 1)
  })
}

for (const isTls of [false, true]) {
  for (const body of ['buffer', 'stream'] as const) {
    t.test(`${isTls ? 'HTTPS' : 'HTTP'}: a download (${body}) whose connection other code closes during a write is named as cut`, async t => {
      const { key, cert } = await createCredentials()
      const { app } = await createApp(t, {}, isTls ? { https: { key, cert } } as object : {})
      const whole = Buffer.alloc(5e7)
      app.get('/', async () => body === 'buffer' ? whole : Readable.from([whole, whole]))
      const port = await listen(app)
      const client = new RawClient(isTls ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : port).get('/')
      await once(client.socket, 'readable')
      client.socket.pause()
      const report = app.gracefulShutdown.shutdown()
      app.server.closeAllConnections()
      t.match(await report, { cut: [{ route: '/' }], exitCode: 1 })
      client.socket.destroy()
    })
  }
}

t.test('a client that pipelines thousands of requests, and resets during a shutdown, does not block the event loop', async t => {
  const REQUESTS = 10_000
  const { app } = await createApp(t)
  const { release } = heldRoute(app)
  const gone = new Deferred()
  app.server.on('connection', socket => { socket.once('close', () => { gone.resolve() }) })
  const client = new RawClient(await listen(app)).send('GET /held HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(REQUESTS))
  await eventually(() => app.inFlightRequests === REQUESTS)
  const report = app.gracefulShutdown.shutdown()
  const cost = processorTime()
  client.socket.resetAndDestroy()
  await gone.promise
  release()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.ok(cost() < 2_000, `${cost()} ms of processor time`)
})

t.test('a client that resets after the handler of a queued response has destroyed that is not named as cut', async t => {
  const { app } = await createApp(t)
  checkOften(app)
  const { entered, release } = heldRoute(app)
  const drop = new Deferred()
  const dropped = new Deferred()
  const gone = new Deferred()
  app.server.on('connection', socket => { socket.once('close', () => { gone.resolve() }) })
  app.get('/', async (_request, { raw }) => {
    await drop.promise
    raw.destroy()
    dropped.resolve()
  })
  const client = new RawClient(await listen(app)).get('/held').get('/').get('/held')
  await entered
  await eventually(() => app.inFlightRequests === 3)
  const report = app.gracefulShutdown.shutdown()
  drop.resolve()
  await dropped.promise
  await sleep(800)
  client.socket.resetAndDestroy()
  await gone.promise
  release()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

interface Ends<Session, Stream> {
  session: Session
  stream: Stream
  socket: Socket
}

interface SessionEnd {
  isCut: boolean
  end: (server: Ends<ServerHttp2Session, ServerHttp2Stream>, client: Ends<ClientHttp2Session, ClientHttp2Stream>) => unknown
}

/** The same for HTTP/2. */
const SESSION_ENDS: Record<string, SessionEnd> = {
  'other code destroys its session': { isCut: true, end: ({ session }) => { session.destroy() } },
  'other code destroys its session with an error': { isCut: true, end: ({ session }) => { session.destroy(new Error('on purpose')) } },
  'other code destroys its socket': { isCut: true, end: ({ socket }) => { socket.destroy() } },
  'the client destroys its session': { isCut: false, end: (_server, { session }) => { session.destroy() } },
  'other code ends its socket': { isCut: true, end: ({ socket }) => { socket.end() } },
  'the handler closes its stream': { isCut: false, end: ({ stream }) => { stream.close(2) } },
  'the client ends the connection': { isCut: false, end: (_server, { socket }) => { socket.end() } },
  'the client sends GOAWAY, and then resets the connection': {
    isCut: false,
    end: async (server, { session, socket }) => {
      const told = once(server.session, 'goaway')
      session.close()
      await told
      socket.resetAndDestroy()
    }
  },
  'the client resets its stream': { isCut: false, end: (_server, { stream }) => { stream.close(8) } },
  'the client resets the connection': { isCut: false, end: (_server, { socket }) => { socket.resetAndDestroy() } },
  'the client sends GOAWAY with an error': { isCut: false, end: (_server, { session }) => { session.goaway(2) } }
}
for (const protocol of ['HTTP/2', 'HTTP/2 over TLS']) {
  for (const isLate of [false, true]) {
    for (const [what, { isCut, end }] of Object.entries(SESSION_ENDS)) {
      const name = `${protocol}: if ${what} during a shutdown, a request ${isLate ? 'on a session that it has accepted ' : ''}is ${isCut ? '' : 'not '}named as cut`
      t.test(name, async t => {
        const isTls = protocol === 'HTTP/2 over TLS'
        const { key, cert } = await createCredentials()
        const server = { http2: true, ...isTls ? { https: { key, cert } } : {} } as object
        const { app, log } = await createApp(t, { shutdownDelay: isLate ? 10_000 : 0 }, server)
        const ends = new Deferred<Ends<ServerHttp2Session, ServerHttp2Stream>>()
        const gone = new Deferred()
        let accepted: Socket | undefined
        app.server.on(isTls ? 'secureConnection' : 'connection', (socket: Socket) => { accepted = socket })
        app.get('/', async ({ raw }) => {
          const { stream } = raw as unknown as { stream: ServerHttp2Stream & { session: ServerHttp2Session } }
          stream.once('close', () => { gone.resolve() })
          ends.resolve({ session: stream.session, stream, socket: accepted as Socket })
          await gone.promise
          return 'too late'
        })
        const port = await listen(app)
        const report = isLate ? app.gracefulShutdown.shutdown() : undefined
        const transport = connectTcp(port, '127.0.0.1')
        const session = connectHttp2(`${isTls ? 'https' : 'http'}://127.0.0.1:${port}`, {
          createConnection: () => isTls ? connectTls({ socket: transport, rejectUnauthorized: false, ALPNProtocols: ['h2'] }) : transport
        })
        t.teardown(() => { session.destroy() })
        for (const emitter of [session, transport]) emitter.on('error', () => {})
        const stream = session.request({ ':path': '/' })
        stream.on('error', () => {}).resume()
        const accepting = await ends.promise
        const shutdown = report ?? app.gracefulShutdown.shutdown()
        app.gracefulShutdown.skipDelay()
        await end(accepting, { session, stream, socket: transport })
        t.match(await shutdown, { cut: { length: isCut ? 1 : 0 }, exitCode: isCut ? 1 : 0 })
        t.equal(log.messages(/^Request cut: Other code in this process has closed the connection/).length, isCut ? 1 : 0)
      })
    }
  }
}
