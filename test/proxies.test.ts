// Requests that are sent on as a body: undici sets `request.raw.socket` to null afterwards.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { GracefulOptions, ShutdownReport } from '../index.ts'
import { createCredentials } from './credentials.ts'
import type { Log } from './helpers.ts'
import { once } from 'node:events'
import { createServer, request as requestHttp } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { request as requestHttps } from 'node:https'
import { PassThrough } from 'node:stream'
import httpProxy from '@fastify/http-proxy'
import replyFrom from '@fastify/reply-from'
import * as undici from 'undici'
import { createApp, Deferred, eventually, listen, phaseBegins, RawClient } from './helpers.ts'

/** A service behind the proxy. It reads each body to the end before it responds. */
interface Upstream {
  url: string
  /** Resolves when a request to /held has been received completely. */
  held: Promise<void>
  /** Answers that request. */
  release: () => void
}

async function startUpstream (t: Test): Promise<Upstream> {
  const held = new Deferred()
  const released = new Deferred()
  const server = createServer((request, response) => {
    let size = 0
    request.on('data', (chunk: Buffer) => { size += chunk.length }).on('end', () => {
      if (request.url === '/dies') request.socket.destroy()
      else if (request.url === '/dies-late') response.write('half', () => { request.socket.destroy() })
      else if (request.url !== '/held') response.end(`received ${size}`)
      else {
        held.resolve()
        void released.promise.then(() => response.end('held'))
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as { port: number }).port}`, held: held.promise, release: () => { released.resolve() } }
}

/** Sends each POST on to the upstream. */
type Way = (app: FastifyInstance, url: string) => unknown

function takeBodiesAsStreams (app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
}

const ways: Record<string, Way> = {
  '@fastify/http-proxy': async (app, url) => { await app.register(httpProxy, { upstream: url, undici: { bodyTimeout: 0, headersTimeout: 0 } }) },
  '@fastify/reply-from': async (app, url) => {
    takeBodiesAsStreams(app)
    await app.register(replyFrom, { base: url })
    app.post('/*', (request, reply) => reply.from(request.url))
  },
  'undici.request': (app, url) => {
    takeBodiesAsStreams(app)
    app.post('/*', async request => {
      const { body } = await undici.request(url + request.url, { method: 'POST', body: request.raw })
      return await body.text()
    })
  },
  'undici.stream': (app, url) => {
    takeBodiesAsStreams(app)
    app.post('/*', async (request, reply) => {
      const through = new PassThrough()
      undici.stream(url + request.url, { method: 'POST', body: request.raw }, () => through).catch((error: Error) => { through.destroy(error) })
      return await reply.send(through)
    })
  }
}

interface Answer {
  status?: number
  text: string
  error?: Error
}

/** A request in progress. */
interface Sent {
  answer: Promise<Answer>
  leave: () => void
}

/** Posts a body over its own connection. */
type Post = (port: number, path: string) => Sent

const SIZE = 100_000

function postHttp1 (request: typeof requestHttps): Post {
  return (port, path) => {
    const answer = new Deferred<Answer>()
    const headers = { 'content-type': 'application/octet-stream' }
    const sent = request({ host: '127.0.0.1', port, path, method: 'POST', agent: false, headers, rejectUnauthorized: false }, response => {
      let text = ''
      const { statusCode: status = 0 } = response
      response.on('data', (chunk: Buffer) => { text += chunk.toString() })
        .on('end', () => { answer.resolve({ status, text }) })
        .on('error', error => { answer.resolve({ status, text, error }) })
    })
    sent.on('error', error => { answer.resolve({ text: '', error }) })
    sent.end(Buffer.alloc(SIZE))
    return { answer: answer.promise, leave: () => { sent.destroy() } }
  }
}

const postHttp2: Post = (port, path) => {
  const answer = new Deferred<Answer>()
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  const stream = session.request({ ':path': path, ':method': 'POST', 'content-type': 'application/octet-stream' })
  const given: Answer = { text: '' }
  stream.on('response', headers => { given.status = Number(headers[':status']) })
    .on('data', (chunk: Buffer) => { given.text += chunk.toString() })
    .on('error', error => { given.error = error })
    .on('close', () => {
      session.close()
      answer.resolve(given)
    })
  stream.end(Buffer.alloc(SIZE))
  return { answer: answer.promise, leave: () => { session.destroy() } }
}

const { key, cert } = await createCredentials()

const protocols: Record<string, { server: object, post: Post }> = {
  'HTTP/1': { server: {}, post: postHttp1(requestHttp) },
  HTTPS: { server: { https: { key, cert } }, post: postHttp1(requestHttps) },
  'HTTP/2': { server: { http2: true }, post: postHttp2 }
}

interface Proxy {
  app: FastifyInstance
  log: Log
  upstream: Upstream
  port: number
  /** The URLs of the requests whose later onResponse hook has run. */
  responded: string[]
}

async function startProxy (t: Test, way: Way, server: object, options: GracefulOptions = {}): Promise<Proxy> {
  const upstream = await startUpstream(t)
  const { app, log } = await createApp(t, options, server)
  const responded: string[] = []
  app.addHook('onResponse', async request => { responded.push(request.url) })
  await way(app, upstream.url)
  return { app, log, upstream, port: await listen(app), responded }
}

/** Whether a client can tell that its request has failed. */
function isFailure ({ status = 0, error }: Answer): boolean {
  return status >= 500 || error !== undefined
}

/** Expects that no request counts any longer and that the shutdown has nothing to wait for. */
async function expectCleanShutdown (t: Test, app: FastifyInstance): Promise<void> {
  await eventually(() => app.inFlightRequests === 0)
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  t.ok(report.phases.draining < 5_000, `drained for ${report.phases.draining}ms`)
}

for (const [wayName, way] of Object.entries(ways)) {
  for (const [protocol, { server, post }] of Object.entries(protocols)) {
    const name = `${wayName}, ${protocol}`

    t.test(`${name}: requests that are sent on count until they are answered, and later onResponse hooks run`, async t => {
      const { app, port, upstream, responded } = await startProxy(t, way, server)
      for (let index = 0; index < 3; index++) t.strictSame(await post(port, '/quick').answer, { status: 200, text: `received ${SIZE}` })
      await eventually(() => app.inFlightRequests === 0)
      await eventually(() => responded.length === 3)

      const held = post(port, '/held')
      await upstream.held
      t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request', method: 'POST', url: '/held' }])
      const report = app.gracefulShutdown.shutdown()
      await phaseBegins(app, 'draining')
      upstream.release()
      t.strictSame(await held.answer, { status: 200, text: 'held' })
      t.match(await report, { completed: 1, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      t.equal(app.inFlightRequests, 0)
      t.equal(responded.length, 4)
    })

    t.test(`${name}: a request that is cut by writeTimeout gets a 503, and the service continues`, async t => {
      const { app, log, port, upstream } = await startProxy(t, way, server, { writeTimeout: 300 })
      const answer = await post(port, '/held').answer
      t.match(answer, { status: 503, text: /FST_ERR_GRACEFUL_WRITE_TIMEOUT/ })
      t.match(await log.line(/^Request cut/), { method: 'POST', url: '/held', code: 'FST_ERR_GRACEFUL_WRITE_TIMEOUT' })
      t.strictSame(await post(port, '/quick').answer, { status: 200, text: `received ${SIZE}` }, 'the service continues')
      upstream.release()
      await expectCleanShutdown(t, app)
    })

    t.test(`${name}: a request that is cut by drainTimeout gets a 503 and is named`, async t => {
      const { app, port, upstream } = await startProxy(t, way, server, { drainTimeout: 300 })
      const held = post(port, '/held')
      await upstream.held
      const report: ShutdownReport = await app.gracefulShutdown.shutdown()
      t.match(await held.answer, { status: 503, text: /FST_ERR_GRACEFUL_DRAIN_TIMEOUT/ })
      t.match(report, { completed: 0, cut: [{ method: 'POST', url: '/held' }], exitCode: 1 })
      t.equal(report.cut.length, 1)
      upstream.release()
      await eventually(() => app.inFlightRequests === 0)
    })

    t.test(`${name}: a request whose client disconnects does not count forever`, async t => {
      const { app, port, upstream } = await startProxy(t, way, server)
      const held = post(port, '/held')
      await upstream.held
      held.leave()
      await held.answer
      upstream.release()
      await expectCleanShutdown(t, app)
    })

    t.test(`${name}: a request whose upstream closes is over, before the response and in the middle of it`, async t => {
      const { app, port } = await startProxy(t, way, server)
      const early = await post(port, '/dies').answer
      t.ok(isFailure(early), JSON.stringify(early))
      await eventually(() => app.inFlightRequests === 0)
      const late = await post(port, '/dies-late').answer
      // Fastify 5.12 alone ends an HTTP/2 stream whose source fails as if it were complete.
      t.ok(isFailure(late) || protocol === 'HTTP/2', JSON.stringify(late))
      await expectCleanShutdown(t, app)
    })
  }

  t.test(`${wayName}: a request whose client disconnects with half of its body sent does not count`, async t => {
    const { app, port } = await startProxy(t, way, {})
    const client = new RawClient(port)
      .send('POST /quick HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nhalf')
    await eventually(() => app.inFlightRequests === 1)
    client.socket.destroy()
    await client.closed
    await expectCleanShutdown(t, app)
  })

  t.test(`${wayName}: requests on one keep-alive connection and a pipeline are each counted once`, async t => {
    const { app, port, responded } = await startProxy(t, way, {})
    const text = 'POST /quick HTTP/1.1\r\nHost: test\r\nContent-Type: application/octet-stream\r\nContent-Length: 4\r\n\r\nbody'
    const client = new RawClient(port).send(text)
    await client.until(/received 4/)
    await eventually(() => app.inFlightRequests === 0)
    client.send(text.repeat(3))
    await eventually(() => client.text.match(/received 4/g)?.length === 4)
    await eventually(() => responded.length === 4)
    await expectCleanShutdown(t, app)
    await client.closed
  })

  t.test(`${wayName}: an injected request that is sent on is over once it is answered`, async t => {
    const { app } = await startProxy(t, way, {})
    const { statusCode, body } = await app.inject({ method: 'POST', url: '/quick', payload: 'four', headers: { 'content-type': 'application/octet-stream' } })
    t.strictSame({ statusCode, body }, { statusCode: 200, body: 'received 4' })
    await expectCleanShutdown(t, app)
  })
}

for (const protocol of ['HTTP/1', 'HTTP/2']) {
  t.test(`a GET request whose client disconnects ends with the response of the upstream (${protocol})`, async t => {
    const upstream = await startUpstream(t)
    const { app } = await createApp(t, {}, protocol === 'HTTP/2' ? { http2: true } as object : {})
    await app.register(httpProxy, { upstream: upstream.url })
    const port = await listen(app)
    if (protocol === 'HTTP/2') {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      t.teardown(() => { session.destroy() })
      const stream = session.request({ ':path': '/held' }).on('error', () => {})
      await upstream.held
      stream.close()
      await once(stream, 'close')
    } else {
      const client = new RawClient(port).get('/held')
      await upstream.held
      client.socket.destroy()
    }
    const report = app.gracefulShutdown.shutdown()
    upstream.release()
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  })
}
