// Responses that have a `connection` header of their own, as proxies and event streams do, while a shutdown makes them the last ones.

import t from 'tap'
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, RouteHandlerMethod } from 'fastify'
import type { Test } from 'tap'
import type { ShutdownReport } from '../index.ts'
import { once } from 'node:events'
import { Agent, createServer, get } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import httpProxy from '@fastify/http-proxy'
import sse from '@fastify/sse'
import { createCredentials } from './credentials.ts'
import { createApp, createAppBehind, Deferred, eventually, expectWarnings, heldRoute, listen, RawClient } from './helpers.ts'

interface Delaying {
  app: FastifyInstance
  port: number
  /** Ends the delay, and resolves to the report. */
  end: () => Promise<ShutdownReport>
}

/** An instance that serves during its shutdown delay. */
async function createDelaying (t: Test, add: (app: FastifyInstance) => unknown, server: object = {}): Promise<Delaying> {
  const { app } = await createApp(t, { shutdownDelay: 20_000, drainTimeout: 5_000 }, server)
  await add(app)
  const port = await listen(app)
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.gracefulShutdown.phase, 'delaying')
  const end = async () => {
    app.gracefulShutdown.skipDelay()
    return await report
  }
  return { app, port, end }
}

function headersOf ({ text }: RawClient, name: string): string[] {
  const [head = ''] = text.split('\r\n\r\n')
  return head.split('\r\n').filter(line => line.toLowerCase().startsWith(`${name}:`)).map(line => line.slice(name.length + 1).trim())
}

const raw = (write: (response: FastifyReply['raw']) => void): RouteHandlerMethod => (_request, reply) => {
  reply.hijack()
  write(reply.raw)
}

const KEEP_ALIVE = { Connection: 'keep-alive', 'Keep-Alive': 'timeout=60', 'x-own': 'kept' }
const FLAT = Object.entries(KEEP_ALIVE).flat()
const OWN = { 'x-own': 'kept' }

const ways: Record<string, RouteHandlerMethod> = {
  'reply.headers()': (_request, reply) => reply.headers(KEEP_ALIVE).send('end'),
  'reply.headers() of a stream': (_request, reply) => reply.headers(KEEP_ALIVE).send(Readable.from(['the ', 'end'])),
  'reply.raw.setHeader()': (_request, reply) => {
    for (const [name, value] of Object.entries(KEEP_ALIVE)) reply.raw.setHeader(name, value)
    return reply.send('end')
  },
  'raw.setHeader(), without writeHead()': raw(response => {
    for (const [name, value] of Object.entries(KEEP_ALIVE)) response.setHeader(name, value)
    response.end('end')
  }),
  'raw.writeHead(status, headers)': raw(response => { response.writeHead(200, KEEP_ALIVE).end('end') }),
  'raw.writeHead(status, message, headers)': raw(response => { response.writeHead(200, 'Fine', KEEP_ALIVE).end('end') }),
  'raw.writeHead(status, list of names and values)': raw(response => { response.writeHead(200, FLAT).end('end') }),
  'raw.writeHead(status, list of pairs)': raw(response => { response.writeHead(200, Object.entries(KEEP_ALIVE) as never).end('end') }),
  'raw.writeHead() after raw.setHeader()': raw(response => { response.setHeader('connection', 'keep-alive').writeHead(200, FLAT).end('end') }),
  'raw.flushHeaders()': raw(response => {
    for (const [name, value] of Object.entries(KEEP_ALIVE)) response.setHeader(name, value)
    response.flushHeaders()
    response.end('end')
  }),
  'raw.removeHeader(), then reply.headers()': (_request, reply) => {
    reply.raw.removeHeader('connection')
    return reply.headers(OWN).send('end')
  },
  'raw.removeHeader(), then raw.setHeader()': raw(response => {
    response.removeHeader('connection')
    response.setHeader('x-own', 'kept').end('end')
  }),
  'raw.removeHeader(), then raw.writeHead(status, list of names and values)': raw(response => {
    response.removeHeader('connection')
    response.writeHead(200, Object.entries(OWN).flat()).end('end')
  }),
  'raw.removeHeader(), then raw.writeHead(status, list of pairs)': raw(response => {
    response.removeHeader('connection')
    response.writeHead(200, Object.entries(OWN) as never).end('end')
  })
}

for (const [way, handler] of Object.entries(ways)) {
  t.test(`a response whose handler keeps the connection alive by ${way} closes it`, async t => {
    const { port, end } = await createDelaying(t, app => app.get('/', handler))
    const client = new RawClient(port).get('/')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 [^]*end/)
    t.strictSame(headersOf(client, 'connection'), ['close'])
    t.strictSame(headersOf(client, 'keep-alive'), [])
    t.strictSame(headersOf(client, 'x-own'), ['kept'])
    t.match(await end(), { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  })
}

for (const [what, head] of [
  ['an HTTP/1.1 request with Connection: close', 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'],
  ['an HTTP/1.0 request', 'GET / HTTP/1.0\r\n\r\n']
] as const) {
  t.test(`a response to ${what} closes its connection, even if its handler sets keep-alive`, async t => {
    const { port, end } = await createDelaying(t, app => app.get('/', async (_request, reply) => reply.headers(KEEP_ALIVE).send('end')))
    const client = new RawClient(port).send(head)
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 [^]*end/)
    t.strictSame(headersOf(client, 'connection'), ['close'])
    t.strictSame(headersOf(client, 'keep-alive'), [])
    t.match(await end(), { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('a response that was in flight at the signal closes its connection, even if its handler sets keep-alive', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  const released = new Deferred()
  app.get('/', async (_request, reply) => {
    entered.resolve()
    await released.promise
    return await reply.header('connection', 'keep-alive').send('late')
  })
  const client = new RawClient(await listen(app)).get('/')
  await entered.promise
  const report = app.gracefulShutdown.shutdown()
  released.resolve()
  await client.closed
  t.strictSame(headersOf(client, 'connection'), ['close'])
  t.match(await report, { completed: 1, exitCode: 0 })
})

t.test('while running, such a header stays', async t => {
  const { app } = await createApp(t)
  app.get('/', async (_request, reply) => await reply.headers(KEEP_ALIVE).send('running'))
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/running/)
  t.strictSame(headersOf(client, 'connection'), ['keep-alive'])
  t.strictSame(headersOf(client, 'keep-alive'), ['timeout=60'])
})

t.test('the other options of the header stay', async t => {
  for (const [given, sent] of [
    ['close', 'close'], ['Close', 'close'], ['upgrade', 'upgrade, close'], ['Keep-Alive, X-Hop', 'X-Hop, close'], ['', 'close'], [['keep-alive', 'X-Hop'], 'X-Hop, close']
  ] as const) {
    const { port, end } = await createDelaying(t, app => app.get('/', raw(response => { response.writeHead(200, { connection: given as string }).end() })))
    const client = new RawClient(port).get('/')
    await client.closed
    t.strictSame(headersOf(client, 'connection'), [sent])
    await end()
  }
})

t.test('a header that is set stays, if writeHead() is passed others', async t => {
  const { port, end } = await createDelaying(t, app => app.get('/', raw(response => {
    response.setHeader('connection', 'X-Hop')
    response.writeHead(200, { 'x-own': 'kept' }).end()
  })))
  const client = new RawClient(port).get('/')
  await client.closed
  t.strictSame(headersOf(client, 'connection'), ['X-Hop, close'])
  await end()
})

t.test('several headers with one name stay', async t => {
  const list = [...FLAT, 'set-cookie', 'a=1', 'set-cookie', 'b=2']
  const { port, end } = await createDelaying(t, app => app.get('/', raw(response => { response.writeHead(200, list).end() })))
  const client = new RawClient(port).get('/')
  await client.closed
  t.strictSame(headersOf(client, 'set-cookie'), ['a=1', 'b=2'])
  t.strictSame(headersOf(client, 'connection'), ['close'])
  await end()
})

t.test('a second writeHead() still fails as in Node', async t => {
  const errors: unknown[] = []
  const { port, end } = await createDelaying(t, app => app.get('/', raw(response => {
    response.writeHead(200, KEEP_ALIVE)
    try {
      response.writeHead(200)
    } catch (error) {
      errors.push(error)
    }
    response.end()
  })))
  await new RawClient(port).get('/').closed
  t.match(errors, [{ code: 'ERR_HTTP_HEADERS_SENT', message: /Cannot write headers/ }])
  await end()
})

t.test('a response that switches protocols stays as it is', async t => {
  const { port, end } = await createDelaying(t, app => app.get('/', raw(response => {
    response.writeHead(101, { Connection: 'Upgrade', Upgrade: 'echo' }).end()
  })))
  const client = new RawClient(port).get('/')
  await client.until(/\r\n\r\n/)
  t.strictSame(headersOf(client, 'connection'), ['Upgrade'])
  client.socket.destroy()
  await end()
})

const UPLOAD = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n'

t.test('a synchronous response to an upload that was arriving as the shutdown started closes its connection', async t => {
  const { app } = await createApp(t, { shutdownDelay: 20_000 })
  app.post('/', (_request, reply) => { reply.send('served') })
  const client = new RawClient(await listen(app)).send(`${UPLOAD}{`)
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  client.send('}')
  await client.closed
  t.match(client.text, /\r\nconnection: close\r\n[^]*served$/i)
  app.gracefulShutdown.skipDelay()
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

/** What answers without having read the body of its request. */
const UNREAD: Record<string, [status: number, add: (app: FastifyInstance) => unknown]> = {
  'a hook': [401, app => app.addHook('onRequest', async (_request, reply) => await reply.code(401).send('who?'))],
  'a hook that takes a while': [429, app => app.addHook('onRequest', async (_request, reply) => {
    await sleep(50)
    return await reply.code(429).send('later')
  })],
  'a hook with a callback': [403, app => app.addHook('onRequest', (_request, reply, _done) => { void reply.code(403).send('no') })],
  'no content type parser': [415, app => {
    app.removeAllContentTypeParsers()
    app.post('/', async () => 'served')
  }],
  'a handler whose parser passes the stream on': [202, app => {
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
    app.post('/', async (_request, reply) => await reply.code(202).send('accepted'))
  }],
  'a handler that hijacks its reply': [418, app => {
    app.addHook('onRequest', async (_request, reply) => {
      reply.hijack()
      reply.raw.writeHead(418)
      reply.raw.end('teapot')
    })
  }]
}

for (const [what, [status, add]] of Object.entries(UNREAD)) {
  for (const [body, rest] of [['{}', ''], ['{', '}'], ['{', undefined]] as const) {
    const arrived = rest === undefined ? 'half of' : rest === '' ? 'all of' : 'and then the rest of'
    t.test(`${what} answers a request whose body it does not read, with ${arrived} it: the response is whole and closes the connection`, async t => {
      const { port, end } = await createDelaying(t, add)
      const client = new RawClient(port).send(UPLOAD + body)
      if (rest !== undefined) {
        await sleep(20)
        client.send(rest)
      }
      await client.until(/HTTP\/1\.1 \d+[^]*\r\n\r\n[^]+/)
      t.strictSame(headersOf(client, 'connection').map(header => header.toLowerCase()), ['close'])
      t.match(client.text, new RegExp(`^HTTP/1.1 ${status} `))
      // Its client has the response, and closes the connection.
      client.socket.end()
      await client.closed
      t.equal(client.error, undefined)
      t.match(await end(), { cut: { length: 0 }, exitCode: 0 })
    })
  }
}

for (const path of ['/health', '/ready']) {
  t.test(`a probe (${path}) whose request has a body closes its connection`, async t => {
    const { port, end } = await createDelaying(t, () => {})
    const client = new RawClient(port).send(UPLOAD.replace('POST /', `GET ${path}`)).send('{}')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 503 [^]*\r\nconnection: close\r\n/i)
    await end()
  })
}

t.test('of a pipeline with such headers, only the last response closes the connection', async t => {
  const released = new Deferred()
  const { app, port, end } = await createDelaying(t, instance => instance.get('/', async (_request, reply) => {
    await released.promise
    return await reply.header('connection', 'keep-alive').send('served')
  }))
  const client = new RawClient(port).get('/')
  await eventually(() => app.inFlightRequests === 1)
  // Until now, the first response was to be the last one.
  client.get('/').get('/')
  await eventually(() => app.inFlightRequests === 3)
  released.resolve()
  await client.closed
  const heads = client.text.split(/HTTP\/1\.1 (?=\d{3})/).slice(1)
  t.strictSame(heads.map(head => /^connection: (.*)\r$/im.exec(head)?.[1]), ['keep-alive', 'keep-alive', 'close'])
  t.match(await end(), { completed: 3, refused: 0, exitCode: 0 })
})

t.test('a rejected request is told that its connection closes, even if a hook ahead of the plugin keeps it alive', async t => {
  const app = await createAppBehind(t, instance => {
    instance.addHook('onRequest', async (_request, reply) => { reply.raw.setHeader('Connection', 'keep-alive') })
  })
  const held = heldRoute(app)
  const port = await listen(app)
  const busy = new RawClient(port).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  const rejected = new RawClient(port).get('/')
  await rejected.closed
  t.match(rejected.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
  t.strictSame(headersOf(rejected, 'connection'), ['close'])
  held.release()
  await busy.closed
  t.strictSame(headersOf(busy, 'connection'), ['close'])
  t.match(await report, { completed: 1, refused: 1, exitCode: 0 })
})

t.test('a request that is cut is told that its connection closes, even if its handler keeps it alive', async t => {
  const { app } = await createApp(t, { drainTimeout: 100 })
  const released = new Deferred()
  app.get('/', async (_request, reply) => {
    reply.raw.setHeader('Connection', 'keep-alive')
    await released.promise
  })
  const client = new RawClient(await listen(app)).get('/')
  await eventually(() => app.inFlightRequests === 1)
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ url: '/' }] })
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503 /)
  t.strictSame(headersOf(client, 'connection'), ['close'])
  released.resolve()
})

t.test('HTTP/2 has no such header; on the same server, an HTTP/1 response closes its connection', async t => {
  expectWarnings(t, /connection header is not valid/)
  const { key, cert } = await createCredentials()
  const server = { http2: true, https: { key, cert, allowHTTP1: true } }
  const { port, end } = await createDelaying(t, app => app.get('/', (_request, reply) => reply.header('connection', 'keep-alive').send('served')), server)
  const client = new RawClient(connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })).get('/')
  await client.closed
  t.strictSame(headersOf(client, 'connection'), ['close'])
  const session = connectHttp2(`https://127.0.0.1:${port}`, { rejectUnauthorized: false })
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':path': '/' })
  const [headers] = await once(stream, 'response')
  t.match(headers, { ':status': 200, connection: undefined })
  stream.resume()
  await once(stream, 'close')
  t.notOk(session.closed)
  t.match(await end(), { completed: 2, exitCode: 0 })
})

t.test('an injected response also says that its connection closes', async t => {
  const { app, end } = await createDelaying(t, instance => instance.get('/', ways['reply.headers()'] as RouteHandlerMethod))
  t.match((await app.inject('/')).headers, { connection: 'close', 'x-own': 'kept' })
  await end()
})

t.test('clients of a proxy change to another instance during the delay, and an adaptive delay ends with them', async t => {
  const upstream = createServer((_request, response) => { response.end('upstream') }).listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  t.teardown(() => {
    upstream.closeAllConnections()
    upstream.close()
  })
  const { app } = await createApp(t, { shutdownDelay: { max: 20_000, quiet: 300 }, drainTimeout: 5_000 })
  await app.register(httpProxy, { upstream: `http://127.0.0.1:${(upstream.address() as { port: number }).port}` })
  const port = await listen(app)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => { agent.destroy() })
  const ask = async (): Promise<string> => {
    const [response] = await once(get({ port, host: '127.0.0.1', agent }), 'response')
    response.resume()
    await once(response, 'end')
    return `${response.statusCode} ${response.headers.connection}`
  }
  t.equal(await ask(), '200 keep-alive')
  const report = app.gracefulShutdown.shutdown()
  t.equal(await ask(), '200 close')
  t.match(await report, { refused: 0, exitCode: 0 })
  t.ok((await report).phases.delaying < 10_000)
})

t.test('an event stream of @fastify/sse closes its connection when it ends', async t => {
  const { port, end } = await createDelaying(t, async app => {
    await app.register(sse as unknown as FastifyPluginAsync)
    app.get('/', { sse: true }, async (_request, reply) => { await reply.sse.send({ data: 'x' }) })
  })
  const client = new RawClient(port).get('/', ['Accept: text/event-stream'])
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*data: /)
  t.strictSame(headersOf(client, 'connection'), ['close'])
  await end()
})
