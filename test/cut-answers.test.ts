// Requests that are cut while hooks, error handlers or streams work on their response: the client reads one complete 503 or
// sees its connection cut, never a mixture, and the service continues.

import t from 'tap'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { IncomingMessage } from 'node:http'
import type { Http2ServerResponse, IncomingHttpHeaders } from 'node:http2'
import { once } from 'node:events'
import { connect, constants } from 'node:http2'
import { PassThrough } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { gzipSync } from 'node:zlib'
import { createApp, Deferred, eventually, listen, RawClient } from './helpers.ts'

interface Way {
  what: string
  /** Adds routes at `/way` whose response is held until `hold()` resolves. */
  route: (app: FastifyInstance, hold: () => Promise<void>) => void
  method?: string
  /** The protocols over which no complete response can be sent any more. */
  lost?: ReadonlyArray<'HTTP/1' | 'HTTP/2'>
  /** What Fastify reports, because the handler, a hook or Fastify itself goes on to answer after the cut. */
  late?: readonly ['Reply was already sent' | 'Promise errored' | 'response will send']
}

const ZIPPED = gzipSync(JSON.stringify({ own: 'body' }))
/** Headers that describe the handler's body, not a 503. */
const DESCRIPTIONS = { 'content-encoding': 'gzip', etag: '"own"', 'last-modified': new Date(0).toUTCString(), 'set-cookie': 'own=1', location: '/own' }

function holdIn (app: FastifyInstance, name: 'onSend' | 'preSerialization', hold: () => Promise<void>): void {
  app.addHook(name as 'onSend', async (request, _reply, payload) => {
    if (request.url === '/way') await hold()
    return payload
  })
}

/** Replaces a method of the response, as a middleware does. */
function replace (app: FastifyInstance, name: 'writeHead' | 'end' | 'setHeader' | 'getHeaderNames' | 'write'): void {
  app.addHook('onRequest', async (request, reply) => {
    if (request.url === '/way') Object.assign(reply.raw, { [name]: () => { throw new Error(`${name} of a middleware`) } })
  })
}

const ways: Way[] = [{
  what: 'an async onError hook',
  late: ['Reply was already sent'],
  route: (app, hold) => {
    app.addHook('onError', async request => { if (request.url === '/way') await hold() })
    app.get('/way', async () => { throw Object.assign(new Error('own error'), { statusCode: 418 }) })
  }
}, {
  what: 'an async onError hook of a handler that uses reply.send(error)',
  late: ['Reply was already sent'],
  route: (app, hold) => {
    app.addHook('onError', async request => { if (request.url === '/way') await hold() })
    app.get('/way', (_request, reply) => { void reply.send(Object.assign(new Error('own error'), { statusCode: 418 })) })
  }
}, {
  what: 'an async error handler',
  late: ['Reply was already sent'],
  route: (app, hold) => {
    app.setErrorHandler(async () => {
      await hold()
      return { own: 'body' }
    })
    app.get('/way', async () => { throw new Error('own error') })
  }
}, {
  what: 'an async onSend hook',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async () => ({ own: 'body' }))
  }
}, {
  what: 'an async onSend hook that rejects after the cut',
  late: ['Reply was already sent'],
  route: (app, hold) => {
    app.addHook('onSend', async request => {
      if (request.url !== '/way') return
      await hold()
      throw Object.assign(new Error('own error'), { statusCode: 418 })
    })
    app.get('/way', async () => ({ own: 'body' }))
  }
}, {
  what: 'an async onSend hook on the response to HEAD',
  method: 'HEAD',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.head('/way', async (_request, reply) => reply.header('content-length', '5').send())
  }
}, {
  what: 'an async onSend hook on a response whose headers describe its body',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async (_request, reply) => reply.code(201).headers({ ...DESCRIPTIONS, 'content-length': ZIPPED.length }).send(ZIPPED))
  }
}, {
  what: 'an async onSend hook on a response with headers of reply.raw',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async (_request, { raw }) => {
      raw.statusCode = 201
      for (const [name, value] of Object.entries({ ...DESCRIPTIONS, 'content-length': ZIPPED.length })) raw.setHeader(name, value)
      return ZIPPED
    })
  }
}, {
  what: 'an async onSend hook on a response with trailers',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async (_request, reply) => {
      reply.trailer('etag', async () => 'own')
      return { own: 'body' }
    })
  }
}, {
  what: 'an async onSend hook on a response with a status message',
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async ({ raw: { httpVersionMajor } }, { raw }) => {
      if (httpVersionMajor === 1) raw.statusMessage = 'All is well'
      return { own: 'body' }
    })
  }
}, {
  what: 'an async onSend hook on a stream',
  late: ['response will send'],
  route: (app, hold) => {
    holdIn(app, 'onSend', hold)
    app.get('/way', async (_request, reply) => {
      const stream = new PassThrough()
      stream.end(ZIPPED)
      return reply.headers(DESCRIPTIONS).send(stream)
    })
  }
}, {
  what: 'a stream that has not sent its first byte',
  route: (app, hold) => {
    app.get('/way', async (_request, reply) => {
      const stream = new PassThrough()
      void hold().then(() => { stream.end(ZIPPED) })
      return reply.headers(DESCRIPTIONS).send(stream)
    })
  }
}, {
  what: 'a stream that fails before its first byte, after the cut',
  route: (app, hold) => {
    app.get('/way', (_request, reply) => {
      const stream = new PassThrough()
      void hold().then(() => { stream.destroy(new Error('own error')) })
      void reply.headers(DESCRIPTIONS).send(stream)
    })
  }
}, {
  what: 'an async preSerialization hook',
  route: (app, hold) => {
    holdIn(app, 'preSerialization', hold)
    app.get('/way', async () => ({ own: 'body' }))
  }
}, {
  what: 'an async preHandler hook',
  route: (app, hold) => { app.get('/way', { preHandler: hold }, async () => ({ own: 'body' })) }
}, {
  what: 'an async onRequest hook',
  route: (app, hold) => { app.get('/way', { onRequest: hold }, async () => ({ own: 'body' })) }
}, {
  what: 'a handler that throws after the cut',
  late: ['Promise errored'],
  route: (app, hold) => {
    app.get('/way', async () => {
      await hold()
      throw Object.assign(new Error('own error'), { statusCode: 418 })
    })
  }
}, {
  what: 'a handler that sends after the cut and returns no promise',
  late: ['Reply was already sent'],
  route: (app, hold) => { app.get('/way', (_request, reply) => { void hold().then(() => reply.headers(DESCRIPTIONS).send(ZIPPED)) }) }
}, {
  what: 'a hijacked reply that is written after the cut',
  route: (app, hold) => {
    app.get('/way', async (_request, reply) => {
      reply.hijack()
      await hold()
      reply.raw.writeHead(201, DESCRIPTIONS)
      reply.raw.write(ZIPPED)
      reply.raw.end()
    })
  }
}, {
  what: 'a response whose headers have been sent',
  lost: ['HTTP/1', 'HTTP/2'],
  route: (app, hold) => {
    app.get('/way', async (_request, { raw }) => {
      raw.writeHead(201, DESCRIPTIONS)
      raw.write('some')
      await hold()
      raw.end()
    })
  }
}, ...(['writeHead', 'end', 'setHeader', 'getHeaderNames', 'write'] as const).map((name): Way => ({
  what: `a middleware whose ${name}() throws`,
  // Http2ServerResponse.end() calls it.
  lost: name === 'write' ? ['HTTP/2'] : [],
  route: (app: FastifyInstance, hold: () => Promise<void>) => {
    replace(app, name)
    app.get('/way', (_request: FastifyRequest, reply: FastifyReply) => {
      reply.hijack()
      void hold()
    })
  }
}))]

interface Answer {
  status: number | undefined
  statusLine: string
  headers: Record<string, unknown>
  body: string
  /** Whether the response is complete. */
  isComplete: boolean
}

const askHttp1 = async (port: number, method: string): Promise<Answer> => {
  const client = new RawClient(port).send(`${method} /way HTTP/1.1\r\nHost: test\r\nOrigin: https://elsewhere.example\r\n\r\n`)
  await client.closed
  const end = client.text.indexOf('\r\n\r\n')
  const [statusLine = '', ...fields] = client.text.slice(0, end).split('\r\n')
  const headers = Object.fromEntries(fields.map(field => [field.slice(0, field.indexOf(':')).toLowerCase(), field.slice(field.indexOf(':') + 2)]))
  const status = end < 0 ? undefined : Number(statusLine.split(' ')[1])
  const body = client.text.slice(end + 4)
  const isComplete = 'content-length' in headers ? method === 'HEAD' || Number(headers['content-length']) === body.length : body.endsWith('0\r\n\r\n')
  return { status, statusLine, headers, body, isComplete }
}

const askHttp2 = async (port: number, method: string): Promise<Answer> => {
  const session = connect(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  const stream = session.request({ ':path': '/way', ':method': method })
  let headers: IncomingHttpHeaders = {}
  let body = ''
  let isComplete = true
  stream.on('response', received => { headers = received })
  stream.on('data', (chunk: Buffer) => { body += chunk.toString() })
  stream.on('error', () => { isComplete = false })
  // Not once(): it rejects if the stream is reset.
  await new Promise<void>(resolve => { stream.on('close', resolve) })
  session.destroy()
  const status = ':status' in headers ? Number(headers[':status']) : undefined
  return { status, statusLine: '', headers, body, isComplete }
}

/** Expects one complete 503 of the plugin. */
function whole503 (t: Test, { status, statusLine, headers, body, isComplete }: Answer, method: string, code: string): void {
  t.ok(isComplete)
  t.equal(status, 503)
  if (statusLine !== '') t.equal(statusLine, 'HTTP/1.1 503 Service Unavailable')
  for (const name of [...Object.keys(DESCRIPTIONS), 'trailer', 'transfer-encoding']) t.equal(headers[name], undefined, name)
  t.equal(headers['content-type'], 'application/json; charset=utf-8')
  if (method === 'HEAD') {
    t.equal(body, '')
  } else {
    t.equal(Number(headers['content-length']), body.length)
    t.match(JSON.parse(body), { statusCode: 503, code })
  }
}

/** Enough turns of the event loop for what the handler still does. */
async function turns (): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await new Promise(resolve => { setImmediate(resolve) })
}

interface Protocol {
  protocol: 'HTTP/1' | 'HTTP/2'
  server: object
  ask: (port: number, method: string) => Promise<Answer>
}

const protocols: Protocol[] = [{ protocol: 'HTTP/1', server: {}, ask: askHttp1 }, { protocol: 'HTTP/2', server: { http2: true }, ask: askHttp2 }]

for (const { what, route, method = 'GET', lost = [], late = [] } of ways) {
  for (const { protocol, server, ask } of protocols) {
    for (const by of ['writeTimeout', 'drainTimeout'] as const) {
      t.test(`${protocol}: ${what}, cut at the ${by}: one complete 503 or a cut connection`, async t => {
        const { app, log } = await createApp(t, { drainTimeout: 200, writeTimeout: 20_000, [by]: 60 }, server)
        const entered = new Deferred()
        const held = new Deferred()
        let sent = 0
        app.addHook('onSend', async request => { if (request.url === '/way') sent++ })
        const ran: string[] = []
        app.addHook('onClose', async () => { ran.push('onClose') })
        app.registerShutdownCallback(() => { ran.push('callback') })
        route(app, async () => {
          entered.resolve()
          await held.promise
        })
        app.get('/other', async () => 'served')
        const answer = ask(await listen(app), method)
        await entered.promise
        if (by === 'drainTimeout') void app.gracefulShutdown.shutdown()
        const seen = await answer
        if (lost.includes(protocol)) {
          t.notOk(seen.isComplete)
          t.notMatch(seen.body, seen.status === 503 ? 'own' : '503')
        } else {
          whole503(t, seen, method, by === 'writeTimeout' ? 'FST_ERR_GRACEFUL_WRITE_TIMEOUT' : 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT')
        }
        if (by === 'writeTimeout') {
          t.equal(app.gracefulShutdown.phase, 'running')
          t.equal((await app.inject('/other')).body, 'served')
        }
        held.resolve()
        if (by === 'writeTimeout') await eventually(() => app.inFlightRequests === 0)
        const report = await app.gracefulShutdown.shutdown()
        await turns()
        t.strictSame(ran, ['onClose', 'callback'])
        t.strictSame(report.errors, [])
        if (by === 'drainTimeout') t.match(report.cut, [{ method, route: '/way' }])
        t.ok(sent <= 1, `onSend hooks ran ${sent} times`)
        // Those about options are about the short times of this test.
        const told = log.lines.filter(({ level, msg }) => level >= 40 && !msg.startsWith('Option '))
        const end = by === 'drainTimeout' ? ['Shutdown complete'] : []
        t.strictSame(told.map(({ msg }) => msg.replace(/[:,].*/, '')).sort(), ['Request cut', ...late, ...end].sort())
      })
    }
  }
}

t.test('a request that is cut while a hook or the body parser holds it counts until that ends', async t => {
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    const { app, log } = await createApp(t, { writeTimeout: 100 })
    const [entered, released] = [new Deferred(), new Deferred()]
    app.addHook(hook, async () => {
      entered.resolve()
      await released.promise
    })
    app.post('/', async () => 'never')
    const answer = app.inject({ method: 'POST', url: '/', payload: { a: 1 } })
    const client = new RawClient(await listen(app))
    client.send('POST / HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
    await entered.promise
    await client.until(/^HTTP\/1\.1 503 /)
    t.equal((await answer).statusCode, 503)
    await eventually(() => log.messages(/^Request cut/).length === 2)
    t.equal(app.inFlightRequests, 2, hook)
    released.resolve()
    await eventually(() => app.inFlightRequests === 0)
  }
})

for (const isHttp2 of [false, true]) {
  const protocol = isHttp2 ? 'HTTP/2' : 'HTTP/1'
  for (const by of ['readTimeout', 'drainTimeout'] as const) {
    t.test(`${protocol}: code that reads the body of an upload which is cut by ${by} gets an error, not the end of the body`, async t => {
      const options = by === 'readTimeout' ? { readTimeout: 1_000 } : { drainTimeout: 200 }
      const { app } = await createApp(t, options, (isHttp2 ? { http2: true } : {}) as object)
      app.addContentTypeParser('*', (_request, _payload, done) => { done(null) })
      const outcomes: Record<string, string> = {}
      let begun = 0
      const read = (name: string, consume: (body: IncomingMessage) => Promise<unknown>) => {
        app.put(`/${name}`, async ({ raw }) => {
          begun++
          await consume(raw).then(() => { outcomes[name] = 'whole' }, (error: Error) => { outcomes[name] = error.message })
        })
      }
      read('pipeline', async body => { await pipeline(body, new PassThrough().resume()) })
      read('events', async body => {
        await new Promise((resolve, reject) => { body.on('end', resolve).on('error', reject) })
      })
      const port = await listen(app)
      for (const name of ['pipeline', 'events']) {
        if (isHttp2) {
          const session = connect(`http://127.0.0.1:${port}`).on('error', () => {})
          t.teardown(() => { session.destroy() })
          session.request({ ':path': `/${name}`, ':method': 'PUT', 'content-type': 'a/b' }).on('error', () => {}).write('abc')
        } else {
          new RawClient(port).send(`PUT /${name} HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 100\r\n\r\nabc`)
        }
      }
      await eventually(() => begun === 2)
      const report = by === 'drainTimeout' ? app.gracefulShutdown.shutdown() : undefined
      await eventually(() => Object.keys(outcomes).length === 2)
      t.strictSame(outcomes, { pipeline: 'aborted', events: 'aborted' })
      await report
    })
  }

  for (const by of ['writeTimeout', 'drainTimeout'] as const) {
    for (const hasBegun of [false, true]) {
      const what = hasBegun ? 'a begun response' : 'a request'
      t.test(`${protocol}: request.signal aborts when ${what} is cut by ${by}, so a handler that it cancels ends`, async t => {
        const options = by === 'writeTimeout' ? { writeTimeout: 200 } : { drainTimeout: 200 }
        const { app } = await createApp(t, options, (isHttp2 ? { http2: true } : {}) as object)
        const entered = new Deferred()
        const aborted = new Deferred()
        app.get('/', async ({ signal }, reply) => {
          if (hasBegun) {
            reply.raw.writeHead(200)
            reply.raw.write('begun')
          }
          entered.resolve()
          await once(signal, 'abort')
          aborted.resolve()
        })
        const port = await listen(app)
        if (isHttp2) {
          const session = connect(`http://127.0.0.1:${port}`).on('error', () => {})
          t.teardown(() => { session.destroy() })
          session.request({ ':path': '/' }).on('error', () => {}).resume()
        } else {
          new RawClient(port).get('/')
        }
        await entered.promise
        const report = by === 'drainTimeout' ? app.gracefulShutdown.shutdown() : undefined
        await aborted.promise
        await eventually(() => app.inFlightRequests === 0)
        await report
      })
    }
  }
}

t.test("Fastify's handlerTimeout no longer aborts request.signal once the plugin has cut the request, because that has", async t => {
  const { app } = await createApp(t, { writeTimeout: false, drainTimeout: 200 })
  const entered = new Deferred()
  const aborts: unknown[] = []
  app.get('/', { handlerTimeout: 10_000 } as object, async ({ signal }) => {
    signal.addEventListener('abort', () => { aborts.push(signal.reason) })
    entered.resolve()
    await once(signal, 'abort')
  })
  const client = new RawClient(await listen(app)).get('/')
  await entered.promise
  const report = await app.gracefulShutdown.shutdown()
  t.equal(aborts.length, 1)
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/)
  t.match(report, { cut: [{ route: '/' }], exitCode: 1 })
})

t.test('HTTP/2: a response that the handler writes to its stream is reset when it is cut, not ended', async t => {
  const { app } = await createApp(t, { drainTimeout: 200 }, { http2: true } as object)
  app.get('/', (_request, reply) => {
    reply.hijack()
    const { stream } = reply.raw as unknown as Http2ServerResponse
    stream.respond({ ':status': 200 })
    stream.write('begun')
  })
  const session = connect(`http://127.0.0.1:${await listen(app)}`).on('error', () => {})
  const stream = session.request({ ':path': '/' })
  const errors: string[] = []
  stream.on('error', ({ code }: NodeJS.ErrnoException) => { errors.push(String(code)) })
  await once(stream, 'data')
  const report = app.gracefulShutdown.shutdown()
  await new Promise(resolve => { stream.once('close', resolve) })
  t.equal(stream.rstCode, constants.NGHTTP2_INTERNAL_ERROR)
  t.strictSame(errors, ['ERR_HTTP2_STREAM_ERROR'])
  t.match(await report, { cut: [{ url: '/' }], exitCode: 1 })
  session.destroy()
})

t.test('HTTP/2: code that reads the body gets an error if its begun response is cut', async t => {
  const { app } = await createApp(t, { drainTimeout: 200 }, { http2: true } as object)
  app.addContentTypeParser('*', (_request, _payload, done) => { done(null) })
  const outcome = new Deferred<string>()
  app.put('/', async ({ raw }, reply) => {
    reply.raw.writeHead(200)
    reply.raw.write('begun')
    await pipeline(raw, new PassThrough().resume()).then(() => { outcome.resolve('whole') }, (error: Error) => { outcome.resolve(error.message) })
  })
  const session = connect(`http://127.0.0.1:${await listen(app)}`).on('error', () => {})
  const stream = session.request({ ':path': '/', ':method': 'PUT', 'content-type': 'a/b' }).on('error', () => {})
  stream.write('abc')
  await once(stream, 'data')
  const report = app.gracefulShutdown.shutdown()
  t.equal(await outcome.promise, 'aborted')
  t.match(await report, { cut: [{ url: '/' }], exitCode: 1 })
  session.destroy()
})

t.test('as a cut request ends, its other listeners can be removed', async t => {
  const { app } = await createApp(t, { drainTimeout: 200 })
  const entered = new Deferred()
  const calls: string[] = []
  app.get('/', async ({ raw, signal }, reply) => {
    const removed = () => { calls.push('removed') }
    raw.on('own', removed).on('own', () => { calls.push('kept') })
    reply.raw.once('finish', () => { raw.removeListener('own', removed) })
    entered.resolve()
    await once(signal, 'abort')
    raw.emit('own')
  })
  new RawClient(await listen(app)).get('/')
  await entered.promise
  await app.gracefulShutdown.shutdown()
  await eventually(() => calls.length > 0)
  t.strictSame(calls, ['kept'])
})
