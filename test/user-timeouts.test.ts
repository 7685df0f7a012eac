// Healthy traffic and the user's own limits, which the plugin's timeouts do not affect.

import t from 'tap'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { GracefulOptions } from '../types/index.ts'
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { once } from 'node:events'
import { createServer, get as httpGet } from 'node:http'
import {
  connect as connectHttp2, createServer as createHttp2Server,
  type ClientHttp2Session, type ClientHttp2Stream, type Http2ServerRequest, type Http2ServerResponse
} from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { Duplex, duplexPair, Readable, Transform } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createGzip, gunzipSync } from 'node:zlib'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createCredentials } from './credentials.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import { collect, createApp, Deferred, eventually, every, heldRoute, listen, RawClient, visit, type Log } from './helpers.ts'

// Most of the time they wait.
t.jobs = 4
// For all of them, because some run at the same time.
t.teardown(resolveToBothLoopbacks())

const HTTP2 = { http2: true } as object
const KIB = 'x'.repeat(1_024)
/** With handlers that never answer, the close at the end of a test waits for this time. */
const NEVER_ENDING = { drainTimeout: 100 }

interface Started {
  fastify: FastifyInstance
  log: Log
  port: number
}

async function start (t: Test, options: GracefulOptions, server: object, addRoutes: (app: FastifyInstance) => void): Promise<Started> {
  const { app, log } = await createApp(t, { signals: ['SIGTERM'], ...options }, server)
  app.addContentTypeParser('*', (_request, payload, done) => {
    let length = 0
    payload.on('data', (chunk: Buffer) => { length += chunk.length })
    payload.on('end', () => { done(null, length) })
    payload.on('error', done)
  })
  addRoutes(app)
  return { fastify: app, log, port: await listen(app) }
}

/** A client that sends a body in parts, over HTTP/1 or HTTP/2. */
interface Upload {
  send: (text: string) => void
  end: () => void
  /** The status of the answer. */
  status: Promise<number>
  /** The client's connection or stream has closed. */
  closed: Promise<unknown>
}

function upload1 (port: number, path = '/', length = 1e6): Upload {
  const client = new RawClient(port).send(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: ${length}\r\n\r\n`)
  const status = client.until(/^HTTP\/1\.1 \d+/).then(text => Number(text.slice(9, 12)))
  return { send: text => { client.send(text) }, end: () => {}, status, closed: client.closed }
}

function upload2 (session: ClientHttp2Session, path = '/'): Upload {
  const stream: ClientHttp2Stream = session.request({ ':path': path, ':method': 'POST', 'content-type': 'a/b' })
  stream.on('error', () => {})
  stream.resume()
  const status = once(stream, 'response').then(([headers]) => Number((headers as Record<string, unknown>)[':status']))
  return {
    send: text => { stream.write(text) }, end: () => { stream.end() }, status, closed: once(stream, 'close')
  }
}

type Connect = (port: number) => (path?: string, length?: number) => Upload

const protocols: Array<[string, object, Connect]> = [
  ['HTTP/1', {}, port => (path, length) => upload1(port, path, length)],
  ['HTTP/2', HTTP2, port => {
    const session = connectHttp2(`http://127.0.0.1:${port}`)
    session.on('error', () => {})
    t.teardown(() => { session.destroy() })
    return path => upload2(session, path)
  }]
]

// These wait for defaults of 10 s, so they begin first.
t.test("a longer requestTimeout of a serverFactory's server limits the whole request, by Node", async t => {
  const serverFactory = (handler: RequestListener) => createServer({ requestTimeout: 60_000 }, handler)
  const { log, port } = await start(t, {}, { serverFactory }, app => { app.post('/', async ({ body }) => body) })
  const upload = upload1(port, '/', 2)
  upload.send('x')
  // Longer than readTimeout is by default.
  await sleep(12_000)
  upload.send('x')
  t.equal(await upload.status, 200)
  t.strictSame(log.messages(/^Request cut/), [])
})

/** Options of Fastify for an HTTP/2 server of a serverFactory. */
const http2Factory = (timeout?: number) => ({
  ...HTTP2,
  serverFactory: (handler: (request: Http2ServerRequest, response: Http2ServerResponse) => void) => {
    const server = createHttp2Server(handler)
    if (timeout !== undefined) server.setTimeout(timeout)
    return server
  }
})

t.test('HTTP/2: connectionTimeout does not turn writeTimeout off, because Fastify replaces it on a session; server.timeout of a serverFactory does', async t => {
  const never = (app: FastifyInstance) => { app.get('/', () => {}) }
  const given = await start(t, NEVER_ENDING, { ...HTTP2, connectionTimeout: 1_000 }, never)
  const own = await start(t, NEVER_ENDING, http2Factory(60_000), never)
  const [first, second] = [given, own].map(({ port }) => {
    const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
    t.teardown(() => { session.destroy() })
    return session.request().on('error', () => {}).resume()
  }) as [ClientHttp2Stream, ClientHttp2Stream]
  let answers = 0
  second.on('response', () => { answers++ })
  // After 10 s, by default.
  const [headers] = await once(first, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  await sleep(2_000)
  t.equal(answers, 0)
  t.strictSame(own.log.messages(/^Request cut/), [])
  second.close()
})

t.test('writeTimeout does not apply to HTTP/1 with connectionTimeout, not even if a handler turns that off, or with an idleTimeout', async t => {
  const { key, cert } = await createCredentials()
  const slowly = (app: FastifyInstance) => {
    app.get('/', async ({ raw }) => {
      if (raw.headers['turn-off'] !== undefined) raw.socket.setTimeout(0)
      // Longer than writeTimeout is by default.
      await sleep(12_000)
      return 'served'
    })
  }
  const plain = await start(t, {}, { connectionTimeout: 60_000 }, slowly)
  const https = { key, cert, allowHTTP1: true }
  const both = await start(t, { idleTimeout: 60_000 }, { http2: true, https, connectionTimeout: 60_000 }, slowly)
  const client = new RawClient(plain.port).get('/', ['turn-off: yes'])
  const secure = new RawClient(connectTls({ port: both.port, host: '127.0.0.1', rejectUnauthorized: false })).get('/')
  await Promise.all([client.until(/served/), secure.until(/served/), plain.fastify.inject('/').then(({ body }) => { t.equal(body, 'served') })])
})

for (const [name, server, connect] of protocols) {
  t.test(`${name}: an upload that takes longer than readTimeout at more than 1 KiB/s is served`, async t => {
    const { port } = await start(t, { readTimeout: 1_000, writeTimeout: 1_000 }, server, app => { app.post('/', async ({ body }) => body) })
    const upload = connect(port)('/', 40 * 1_024)
    upload.send('x')
    // Meanwhile, the plugin checks it for the first time.
    await sleep(200)
    // At least 1.2 s.
    for (let sent = 0; sent < 40; sent++) {
      upload.send(sent === 0 ? KIB.slice(1) : KIB)
      await sleep(30)
    }
    upload.end()
    t.equal(await upload.status, 200)
  })

  t.test(`${name}: a client that sends much at once may then pause for as many seconds as KiB, regardless of writeTimeout`, async t => {
    const { fastify, log, port } = await start(t, { writeTimeout: 100 }, server, app => {
      app.post('/', { config: { gracefulShutdown: { readTimeout: 100 } } }, async ({ body }) => body)
    })
    const upload = connect(port)('/', 5 * 1_024)
    upload.send(KIB.repeat(4))
    await eventually(() => fastify.inFlightRequests === 1)
    await sleep(1_000)
    t.strictSame(log.messages(/^Request cut/), [])
    upload.send(KIB)
    upload.end()
    t.equal(await upload.status, 200)
  })

  t.test(`${name}: a client that sends slowly is answered with 408, also with and after other requests on its connection`, async t => {
    const { fastify, log, port } = await start(t, { readTimeout: 300 }, server, app => { app.post('/', async ({ body }) => body) })
    const request = connect(port)
    const other = request('/', 200 * 1_024)
    other.send(KIB.repeat(200))
    other.end()
    t.equal(await other.status, 200)
    const upload = request()
    const stop = every(t, 30, () => { upload.send('x') })
    t.equal(await upload.status, 408)
    stop()
    await eventually(() => fastify.inFlightRequests === 0)
    const line = await log.line(/^Request cut/)
    t.match(line, { code: 'FST_ERR_GRACEFUL_READ_TIMEOUT', route: '/' })
    t.match(line.msg, /\(readTimeout\)\. \/ can have its own: config: \{ gracefulShutdown: \{ readTimeout: … \} \}$/)
  })

  t.test(`${name}: a route can have its own readTimeout or none`, async t => {
    const { port } = await start(t, { readTimeout: 1_000 }, server, app => {
      app.post('/quick', { config: { gracefulShutdown: { readTimeout: 50 } } }, async ({ body }) => body)
      app.post('/patient', { config: { gracefulShutdown: { readTimeout: false } } }, async ({ body }) => body)
      app.post('/', async ({ body }) => body)
    })
    const request = connect(port)
    const [patient, other, quick] = [request('/patient', 2), request('/'), request('/quick')]
    patient.send('x')
    const order: string[] = []
    await Promise.all([
      quick.status.then(status => { order.push(`quick ${status}`) }), other.status.then(status => { order.push(`other ${status}`) })
    ])
    t.strictSame(order, ['quick 408', 'other 408'])
    patient.send('x')
    patient.end()
    t.equal(await patient.status, 200)
  })

  t.test(`${name}: readTimeout limits the body of a route that has opted out, without naming it`, async t => {
    const { log, port } = await start(t, { readTimeout: 100 }, server, app => {
      app.post('/', { config: { gracefulShutdown: false } }, async ({ body }) => body)
    })
    t.equal(await connect(port)().status, 408)
    t.strictSame(log.messages(/^Request cut/), [])
  })

  t.test(`${name}: readTimeout does not name a request of a route that has opted out, although a blocked event loop noticed that late`, async t => {
    const { log, port } = await start(t, { readTimeout: 100 }, server, app => {
      app.addHook('onRequest', (_request, _reply, done) => {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
        done()
      })
      app.post('/', { config: { gracefulShutdown: false } }, async ({ body }) => body)
    })
    t.equal(await connect(port)().status, 408)
    t.strictSame(log.messages(/^Request cut/), [])
  })

  t.test(`${name}: a handler that does not answer is cut while the body waits to be read`, async t => {
    const never = new Deferred()
    const { port } = await start(t, { readTimeout: 10_000, writeTimeout: 100 }, server, app => {
      app.addHook('onRequest', async () => { await never.promise })
      app.post('/', async ({ body }) => body)
    })
    const upload = connect(port)()
    upload.send(KIB)
    t.equal(await upload.status, 503)
    never.resolve()
  })

  t.test(`${name}: an event stream may be silent for longer than writeTimeout`, async t => {
    const ways: Record<string, (reply: FastifyReply) => Readable | FastifyReply> = {
      sent: reply => {
        const source = new Readable({ read () {} })
        source.push('data: 1\n\n')
        reply.type('text/event-stream; charset=utf-8')
        void ended.promise.then(() => source.push('data: 2\n\n') && source.push(null))
        return source
      },
      // Fastify sends the head with the first event.
      'sent-late': reply => {
        const source = new Readable({ read () {} })
        void ended.promise.then(() => source.push('data: 1\n\ndata: 2\n\n') && source.push(null))
        return reply.type('text/event-stream').send(source)
      },
      'returned-late': reply => {
        const source = new Readable({ read () {} })
        reply.type('text/event-stream')
        void ended.promise.then(() => source.push('data: 1\n\ndata: 2\n\n') && source.push(null))
        return source
      },
      'raw-late': reply => {
        reply.hijack()
        reply.raw.setHeader('content-type', 'text/event-stream')
        void ended.promise.then(() => { reply.raw.end('data: 1\n\ndata: 2\n\n') })
        return reply
      },
      // Node does not expose these headers.
      hijacked: reply => {
        reply.hijack()
        reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
        reply.raw.write('data: 1\n\n')
        void ended.promise.then(() => { reply.raw.end('data: 2\n\n') })
        return reply
      },
      raw: reply => {
        reply.raw.setHeader('content-type', 'text/event-stream')
        reply.raw.write('data: 1\n\n')
        void ended.promise.then(() => { reply.raw.end('data: 2\n\n') })
        return reply
      },
      asked: reply => {
        reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
        reply.raw.write('data: 1\n\n')
        void ended.promise.then(() => { reply.raw.end('data: 2\n\n') })
        return reply
      }
    }
    const ended = new Deferred()
    const timedOut: string[] = []
    const { fastify, log, port } = await start(t, { writeTimeout: 100 }, server, app => {
      app.addHook('onTimeout', async ({ url }) => { timedOut.push(url) })
      for (const [way, serve] of Object.entries(ways)) app.get(`/${way}`, async (_request, reply) => serve(reply))
    })
    const texts = Object.keys(ways).map(async way => await getText(t, name, port, `/${way}`, way === 'asked'))
    await eventually(() => fastify.inFlightRequests === Object.keys(ways).length)
    await sleep(600)
    t.strictSame(log.messages(/^Request cut/), [])
    t.strictSame(timedOut, [], 'no onTimeout hook runs')
    ended.resolve()
    for (const text of await Promise.all(texts)) t.match(text, /data: 1[^]*data: 2/)
  })

  t.test(`${name}: a handler that has declared an event stream, and works for longer than writeTimeout before it returns, is cut`, async t => {
    const { log, port } = await start(t, { writeTimeout: 100 }, server, app => {
      app.get('/', async (_request, reply) => {
        reply.type('text/event-stream')
        await log.line(/^Request cut/)
        return 'data: 1\n\n'
      })
    })
    t.match(await getText(t, name, port, '/', false), /FST_ERR_GRACEFUL_WRITE_TIMEOUT/)
  })

  t.test(`${name}: an event stream whose client has been slow for a while may be silent afterwards`, async t => {
    const ended = new Deferred()
    const timedOut: string[] = []
    const { fastify, log, port } = await start(t, { writeTimeout: 1_500 }, server, app => {
      app.addHook('onTimeout', async ({ url }) => { timedOut.push(url) })
      app.get('/', async (_request, reply) => {
        const source = new Readable({ read () {} })
        // More than the client takes unread. On HTTP/2, each write must be received within writeTimeout, however slow the machine is.
        const [writes, length] = name === 'HTTP/1' ? [1, 8_000_000] : [64, 16_000]
        source.push('data: ')
        for (let write = 1; write < writes; write++) source.push('x'.repeat(length))
        source.push(`${'x'.repeat(length)}\n\n`)
        void ended.promise.then(() => source.push('data: last\n\n') && source.push(null))
        return reply.type('text/event-stream').send(source)
      })
    })
    let text = ''
    const { stream, close } = openStream(name, port)
    t.teardown(close)
    // Several sweeps see that it does not read.
    await sleep(400)
    stream.on('data', (chunk: Buffer) => { text = (text + chunk.toString('latin1')).slice(-100) })
    await eventually(() => text.includes('x\n\n'))
    await sleep(2_500)
    t.strictSame(log.messages(/^Request cut/), [])
    t.strictSame(timedOut, [], 'no onTimeout hook runs')
    ended.resolve()
    await eventually(() => text.includes('data: last'))
    await eventually(() => fastify.inFlightRequests === 0)
  })

  t.test(`${name}: an event stream that its client does not read is cut`, async t => {
    const { fastify, log, port } = await start(t, { writeTimeout: 150 }, server, app => {
      app.get('/', async (_request, reply) => {
        void reply.type('text/event-stream')
        return new Readable({ read () { this.push(Buffer.alloc(64 * 1_024)) } })
      })
    })
    if (name === 'HTTP/1') {
      const { client } = await visit(fastify, port)
      client.socket.pause()
      client.get('/')
      t.teardown(() => { client.socket.destroy() })
    } else {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      session.request({ ':path': '/' }).on('error', () => {})
      t.teardown(() => { session.destroy() })
    }
    await log.line(/^Request cut/)
    await eventually(() => fastify.inFlightRequests === 0)
  })

  t.test(`${name}: a response whose handler has set its own timeout is not cut, whenever it was set`, async t => {
    const ended = new Deferred()
    const expired: string[] = []
    const { fastify, log, port } = await start(t, { writeTimeout: 800 }, server, app => {
      for (const [when, begun] of [['early', false], ['late', false], ['begun', true]] as const) {
        app.get(`/${when}`, async (_request, reply) => {
          if (begun) {
            reply.raw.setHeader('content-type', 'text/plain')
            reply.raw.write('begun')
            await sleep(100)
          }
          if (when === 'late') await sleep(100)
          reply.raw.setTimeout(1_000, () => { expired.push(when) })
          await ended.promise
          if (!begun) return 'end'
          reply.raw.end('end')
          return reply
        })
      }
    })
    const texts = ['/early', '/late', '/begun'].map(async path => await getText(t, name, port, path, false))
    await eventually(() => fastify.inFlightRequests === 3)
    await eventually(() => new Set(expired).size === 3)
    await sleep(300)
    t.strictSame(log.messages(/^Request cut/), [])
    ended.resolve()
    for (const text of await Promise.all(texts)) t.match(text, /end/)
  })

  t.test(`${name}: a response whose handler has taken its own timeout back is cut`, async t => {
    const { log, port } = await start(t, { writeTimeout: 200 }, server, app => {
      app.get('/', async (_request, { raw }) => {
        raw.writeHead(200, { 'content-type': 'text/plain' })
        raw.write('begun')
        raw.setTimeout(60_000)
        raw.setTimeout(0)
        await once(raw, 'close')
      })
    })
    await getText(t, name, port, '/', false).catch(() => {})
    await log.line(/^Request cut: .* \(writeTimeout\)/)
  })

  t.test(`${name}: handlerTimeout limits the time to the first byte instead of writeTimeout`, async t => {
    const never = new Deferred()
    const { fastify, log, port } = await start(t, { writeTimeout: 60 }, { ...server, handlerTimeout: 500 }, app => {
      app.get('/hangs', async () => { await never.promise })
      app.get('/stalls', async (_request, reply) => {
        reply.raw.setHeader('content-type', 'text/plain')
        reply.raw.write('begun')
        await never.promise
      })
    })
    const stalls = getText(t, name, port, '/stalls', false)
    t.match(await getText(t, name, port, '/hangs', false), 'FST_ERR_HANDLER_TIMEOUT')
    await stalls
    t.strictSame(log.lines.filter(({ msg }) => msg.startsWith('Request cut')).map(({ route }) => route), ['/stalls'])
    t.equal(fastify.inFlightRequests, 2, 'their handlers still run')
    never.resolve()
    await eventually(() => fastify.inFlightRequests === 0)
  })
}

/** Requests `/` and reads nothing of the response until there is a 'data' listener. */
function openStream (name: string, port: number): { stream: Readable, close: () => void } {
  if (name === 'HTTP/1') {
    const socket = connectTcp(port, '127.0.0.1')
    socket.write('GET / HTTP/1.1\r\nHost: test\r\n\r\n')
    return { stream: socket, close: () => { socket.destroy() } }
  }
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  return { stream: session.request({ ':path': '/' }).on('error', () => {}), close: () => { session.destroy() } }
}

/** Everything received for a GET request until its connection or stream has closed. */
async function getText (t: Test, name: string, port: number, path: string, asks: boolean): Promise<string> {
  if (name === 'HTTP/1') {
    const client = new RawClient(port).get(path, ['Connection: close', ...asks ? ['Accept: text/event-stream'] : []])
    await client.closed
    return client.text
  }
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':path': path, ...asks ? { accept: 'text/event-stream' } : {} })
  let text = ''
  stream.on('data', (chunk: Buffer) => { text += chunk.toString() }).on('error', () => {})
  await new Promise(resolve => { stream.on('close', resolve) })
  return text
}

/** What a client has read, and whether that was the whole answer. */
type Download = (port: number) => Promise<{ body: Buffer, isWhole: boolean }>

const downloads: Array<[name: string, server: object, download: Download]> = [
  ['HTTP/1', {}, async port => await new Promise((resolve, reject) => {
    httpGet({ port, agent: false }, message => {
      const chunks: Buffer[] = []
      message.on('data', (chunk: Buffer) => { chunks.push(chunk) }).on('error', () => {})
      message.on('close', () => { resolve({ body: Buffer.concat(chunks), isWhole: message.complete }) })
    }).on('error', reject)
  })],
  ['HTTP/2', HTTP2, async port => {
    const session = connectHttp2(`http://127.0.0.1:${port}`)
    const stream = session.request({ ':path': '/' })
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => { chunks.push(chunk) }).on('error', () => {})
    await new Promise(resolve => { stream.once('close', resolve) })
    session.destroy()
    return { body: Buffer.concat(chunks), isWhole: stream.rstCode === 0 }
  }]
]

const LIMIT = 1_000
const ROWS = 100

/** Sends rows at a steady pace. An onSend hook compresses them, so that nothing is sent for a long time. */
async function startExport (t: Test, server: object, pauseAfter = Infinity): Promise<Started> {
  return await start(t, { writeTimeout: LIMIT, drainTimeout: 5_000 }, server, app => {
    app.addHook('onSend', async (_request, _reply, payload) => (payload as Readable).pipe(createGzip()))
    app.get('/', (_request, reply) => {
      async function * rows (): AsyncGenerator<string> {
        for (let row = 0; row < ROWS; row++) {
          yield `row ${row}\n`
          await (row < pauseAfter ? sleep(25) : new Promise(() => {}))
        }
      }
      void reply.type('text/csv').send(Readable.from(rows()))
    })
  })
}

for (const [name, server, download] of downloads) {
  t.test(`${name}: a stream that is read steadily is not cut, although a compressor sends nothing for longer than writeTimeout`, async t => {
    const { port } = await startExport(t, server)
    const { body, isWhole } = await download(port)
    t.ok(isWhole)
    t.match(gunzipSync(body).toString(), new RegExp(`^row 0\n[^]*row ${ROWS - 1}\n$`))
  })

  t.test(`${name}: the same one is not cut if a shutdown starts meanwhile`, async t => {
    const { fastify, port } = await startExport(t, server)
    const done = download(port)
    await eventually(() => fastify.inFlightRequests === 1)
    const report = fastify.gracefulShutdown.shutdown()
    const { body, isWhole } = await done
    t.ok(isWhole)
    t.match(gunzipSync(body).toString(), new RegExp(`row ${ROWS - 1}\n$`))
    t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  })

  t.test(`${name}: one that an onSend hook reads in paused mode loses nothing`, async t => {
    const { port } = await start(t, { writeTimeout: LIMIT }, server, app => {
      app.addHook('onSend', async (_request, _reply, payload) => {
        const stream = payload as Readable
        await once(stream, 'readable')
        stream.unshift(stream.read())
        return stream.pipe(createGzip())
      })
      app.get('/', (_request, reply) => {
        async function * late (): AsyncGenerator<string> {
          // Meanwhile, sweeps look at it.
          await sleep(LIMIT / 2)
          yield 'first '
          yield 'last'
        }
        void reply.send(Readable.from(late(), { objectMode: false }))
      })
    })
    const { body, isWhole } = await download(port)
    t.ok(isWhole)
    t.equal(gunzipSync(body).toString(), 'first last')
  })

  t.test(`${name}: one that delivers no more data is cut`, async t => {
    const { port, log } = await startExport(t, server, 20)
    t.notOk((await download(port)).isWhole)
    const cut = log.lines.find(({ msg }) => msg.startsWith('Request cut'))
    const age = Number(cut?.age)
    t.ok(age >= 500 + LIMIT * 0.9 && age < 500 + 3 * LIMIT, `after ${age} ms`)
  })
}

for (const [name, server] of downloads) {
  t.test(`${name}: a stream whose compressor is closed, because the client disconnects, is not read on`, async t => {
    const source = new Readable({ read () { setImmediate(() => { this.push('x'.repeat(1_000)) }) } })
    const compressor = createGzip({ level: 0 })
    const { fastify, port } = await start(t, { writeTimeout: LIMIT }, server, app => {
      app.addHook('onSend', async () => source.pipe(compressor))
      app.get('/', (_request, reply) => { void reply.send(source) })
    })
    const closed = once(compressor, 'close')
    // Neither reads.
    const session = server === HTTP2 ? connectHttp2(`http://127.0.0.1:${port}`) : undefined
    session?.request({ ':path': '/' }).on('error', () => {})
    const client = session ?? httpGet({ port, agent: false }, message => { message.pause() }).on('error', () => {})
    await eventually(() => source.readableFlowing === false)
    // Meanwhile, sweeps have looked at it.
    await sleep(LIMIT / 2)
    t.equal(fastify.inFlightRequests, 1)
    client.destroy()
    await closed
    await sleep(50)
    t.equal(source.readableFlowing, false)
    // Nothing else closes it, so the request would count until drainTimeout.
    source.destroy()
  })
}

t.test('a 408 is complete, and the client reads it although it continues to send', async t => {
  // On the route: Node's own timeout for headers would also be 100 ms, and answers first on a slow machine.
  const options = { config: { gracefulShutdown: { readTimeout: 100 } } }
  const { fastify, port } = await start(t, {}, {}, app => { app.post('/', options, async ({ body }) => body) })
  await Promise.all(Array.from({ length: 10 }, async () => {
    const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 100000\r\n\r\n')
    const stop = every(t, 1, () => { client.send('x') })
    const text = await client.until(/\}$/)
    await client.closed
    stop()
    t.match(text, /^HTTP\/1\.1 408 [^]*connection: close[^]*"FST_ERR_GRACEFUL_READ_TIMEOUT"/i)
  }))
  await eventually(() => fastify.inFlightRequests === 0)
})

t.test('a 408 that waits for its turn until the rest of the request has arrived is sent, and ends the connection', async t => {
  // Not of the whole application: Node would close a connection whose headers arrive later, as on a busy machine.
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  const received = new Deferred()
  app.addHook('onRequest', async ({ raw }) => { raw.on('end', () => { received.resolve() }) })
  app.post('/', { config: { gracefulShutdown: { readTimeout: 100 } } }, async () => 'never')
  const client = new RawClient(await listen(app)).get('/held')
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n1')
  await log.line(/^Request cut/)
  client.send('2')
  await received.promise
  held.release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*\{"held":true\}HTTP\/1\.1 408 [^]*\}$/)
  await eventually(() => app.inFlightRequests === 0)
})

t.test('readTimeout acts on a stream that is not a socket', async t => {
  const { app } = await createApp(t, { readTimeout: 100 })
  app.post('/', async () => 'never')
  await listen(app)
  const [client, server] = duplexPair()
  app.server.emit('connection', server)
  client.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n1')
  const [chunk] = await once(client, 'data') as [Buffer]
  t.match(chunk.toString(), /^HTTP\/1\.1 408 /)
})

interface StreamClient {
  /** What it has read. */
  text: () => string
  /** The server has closed its side. */
  gone: Promise<unknown>
}

/** Sends a request over a stream that is passed to the server as a connection, and is not a socket. */
function connectStream (app: FastifyInstance, request: string): StreamClient {
  const [client, server] = duplexPair()
  let text = ''
  client.on('data', (chunk: Buffer) => { text += chunk.toString() })
  app.server.emit('connection', server)
  client.write(request)
  return { text: () => text, gone: once(server, 'close') }
}

const POST = 'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nab'

t.test('over a stream that is not a socket, a response may be slow as long as its handler writes, and is cut if that hangs', async t => {
  const held = new Deferred()
  const { fastify, log } = await start(t, { writeTimeout: 300 }, {}, app => {
    app.get('/slow', async (_request, reply) => reply.type('text/plain').send(Readable.from((async function * () {
      for (let part = 0; part < 8; part++) {
        yield `part ${part}\n`
        await sleep(100)
      }
    })())))
    const sendEvents = async (_request: unknown, reply: FastifyReply) => reply.type('text/event-stream').send(Readable.from((async function * () {
      for (let part = 0; part < 3; part++) {
        yield `data: ${part}\n\n`
        await sleep(700)
      }
    })()))
    app.get('/events', sendEvents)
    // Until it returns, its progress is watched.
    app.post('/events', async (request, reply) => {
      await sleep(200)
      return await sendEvents(request, reply)
    })
    app.get('/', async () => { await held.promise })
    app.post('/', async () => { await held.promise })
    app.get('/begun', async (_request, reply) => {
      reply.raw.setHeader('content-type', 'text/plain')
      reply.raw.write('begun')
      await held.promise
      return reply
    })
  })
  const get = (path: string) => connectStream(fastify, `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
  const [slow, events, silent, begun] = [get('/slow'), get('/events'), get('/'), get('/begun')]
  const post = connectStream(fastify, POST)
  const late = connectStream(fastify, POST.replace('/', '/events'))
  for (const { text } of [silent, post]) await eventually(() => /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_WRITE_TIMEOUT/.test(text()))
  await eventually(() => [slow, events, late].every(({ text }) => text().endsWith('0\r\n\r\n')))
  t.match(slow.text(), /part 7/)
  t.match(events.text(), /data: 2/)
  t.match(late.text(), /data: 2/)
  await begun.gone
  t.equal(log.messages(/^Request cut/).length, 3)
  t.equal(fastify.gracefulShutdown.phase, 'running')
  held.resolve()
  await eventually(() => fastify.inFlightRequests === 0)
})

t.test('over a stream that is not a socket, a client that reads slowly is not cut', async t => {
  const { fastify, log } = await start(t, { writeTimeout: 100 }, {}, app => { app.post('/', async () => 'x'.repeat(1e6)) })
  const written = new Deferred()
  const release = new Deferred()
  const stream = new Duplex({
    read () {},
    write (_chunk, _encoding, done) {
      written.resolve()
      void release.promise.then(() => { done() })
    }
  })
  fastify.server.emit('connection', stream)
  stream.push(POST)
  await written.promise
  await sleep(500)
  t.strictSame(log.messages(/^Request cut/), [])
  release.resolve()
  await eventually(() => fastify.inFlightRequests === 0)
  t.match(await fastify.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
})

t.test('over a stream that is not a socket, an upload that is complete when its refusal has been sent is closed', async t => {
  const { fastify } = await start(t, { readTimeout: 100 }, {}, app => { app.post('/', async ({ body }) => body) })
  const ended = new Deferred<string>()
  let text = ''
  const stream = new Duplex({
    read () {},
    write (chunk: Buffer, _encoding, done) {
      if (text === '') stream.push('b')
      text += chunk.toString()
      setImmediate(done)
    },
    final (done) {
      ended.resolve(text)
      done()
    }
  })
  fastify.server.emit('connection', stream)
  stream.push(POST.slice(0, -1))
  t.match(await ended.promise, /^HTTP\/1\.1 408 [^]*\}$/)
  t.match(await fastify.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
})

t.test('a handler that has replaced a property of its reply is cut as usual', async t => {
  const { app } = await createApp(t, { writeTimeout: 60, signals: ['SIGTERM'] })
  const released = new Deferred()
  app.get('/', async (_request, reply) => {
    Object.defineProperty(reply, 'routeOptions', { get () { throw new Error('replaced') } })
    await released.promise
  })
  await new RawClient(await listen(app)).get('/').until(/^HTTP\/1\.1 503 /)
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a client that continues to send the body of an answered request is closed', async t => {
  const { log, port } = await start(t, {}, {}, app => {
    app.addHook('onRequest', async (_request, reply) => await reply.code(401).send('no'))
    app.post('/', { config: { gracefulShutdown: { readTimeout: 150 } } }, async () => 'never')
  })
  const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 100000\r\n\r\n')
  const stop = every(t, 20, () => { client.send('x') })
  await client.closed
  stop()
  t.match(client.text, /^HTTP\/1\.1 401 [^]*no$/)
  t.strictSame(log.messages(/^Request cut/), [])
})

t.test('a timeout that a handler sets late, without a listener, closes its connection', async t => {
  const { fastify, log, port } = await start(t, { writeTimeout: 200 }, {}, app => {
    app.get('/', async (_request, reply) => {
      reply.raw.setHeader('content-type', 'text/plain')
      reply.raw.write('begun')
      await sleep(100)
      reply.raw.setTimeout(400)
      await once(reply.raw, 'close')
    })
  })
  const began = performance.now()
  const client = new RawClient(port).get('/')
  await client.closed
  t.ok(performance.now() - began > 450)
  t.strictSame(log.messages(/^Request cut/), [])
  await eventually(() => fastify.inFlightRequests === 0)
})

t.test('a timeout that a handler sets late is its own, even if it is as long as writeTimeout', async t => {
  const expired = new Deferred()
  const { log, port } = await start(t, { writeTimeout: 300 }, {}, app => {
    app.post('/', async (_request, reply) => {
      await sleep(150)
      reply.raw.setTimeout(300, () => { expired.resolve() })
      await expired.promise
      await sleep(100)
      return 'served'
    })
  })
  const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nab')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 [^]*served$/)
  t.strictSame(log.messages(/^Request cut/), [])
})

for (const listener of ['server', 'request'] as const) {
  t.test(`a timeout that a handler sets late leaves the connection open if the ${listener} listens to it`, async t => {
    const expired = new Deferred()
    const { fastify, log, port } = await start(t, { writeTimeout: 300 }, {}, app => {
      app.removeAllContentTypeParsers()
      app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
      app.post('/', async ({ raw }) => {
        await sleep(150)
        if (listener === 'request') raw.on('timeout', () => { expired.resolve() })
        raw.socket.setTimeout(200)
        await expired.promise
        return 'served'
      })
    })
    if (listener === 'server') fastify.server.on('timeout', () => { expired.resolve() })
    // The rest of the body waits to be read.
    const client = new RawClient(port).send(`POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 3000\r\n\r\n${KIB}`)
    await Promise.race([client.until(/served/), client.closed])
    t.match(client.text, /^HTTP\/1\.1 200 [^]*served/)
    t.strictSame(log.messages(/^Request cut/), [])
    client.socket.destroy()
  })
}

t.test('the log line of a cut names option and route, and says how to set the option for the route', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 100 })
  const held = heldRoute(app, '/reports/:id')
  const client = new RawClient(await listen(app)).get('/reports/1')
  await client.until(/^HTTP\/1\.1 503 /)
  const { msg } = await log.line(/^Request cut/)
  t.equal(msg, 'Request cut: The response made no progress for 100 ms (writeTimeout). /reports/:id can have its own: config: { gracefulShutdown: { writeTimeout: … } }')
  held.release()
})

t.test('the log line of a cut says how to set the option although no route has the path', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 100 })
  const released = new Deferred()
  app.addHook('onRequest', async () => { await released.promise })
  const client = new RawClient(await listen(app)).get('/unknown')
  await client.until(/^HTTP\/1\.1 503 /)
  await log.line(/^Request cut: .* \(writeTimeout\)\. A route can have its own: config: /)
  released.resolve()
})

for (const name of ['writeTimeout', 'drainTimeout']) {
  for (const way of ['returns it', 'returns nothing', 'calls back'] as const) {
    t.test(`a handler that ${way}, and calls reply.callNotFound() after ${name} has cut its request, is done`, async t => {
      const isDrain = name === 'drainTimeout'
      const options = isDrain ? { drainTimeout: 100, shutdownTimeout: 5_000 } : { writeTimeout: 100 }
      const { fastify, log, port } = await start(t, options, {}, app => {
        app.setNotFoundHandler(async () => 'nothing here')
        app.get('/', way === 'calls back'
          ? (_request, reply) => { void log.line(/^Request cut/).then(() => reply.callNotFound()) }
          : async (_request, reply) => {
            await log.line(/^Request cut/)
            const returned = reply.callNotFound()
            return way === 'returns it' ? returned : undefined
          })
      })
      const client = new RawClient(port).get('/')
      await eventually(() => fastify.inFlightRequests === 1)
      if (isDrain) await fastify.gracefulShutdown.shutdown()
      await client.until(/^HTTP\/1\.1 503 /)
      await eventually(() => fastify.inFlightRequests === 0)
    })
  }
}

t.test('a route keeps its own writeTimeout if its handler calls reply.callNotFound()', async t => {
  const { log, port } = await start(t, { writeTimeout: 100 }, {}, app => {
    app.setNotFoundHandler(async () => {
      await sleep(500)
      return 'rendered slowly'
    })
    app.get('/', { config: { gracefulShutdown: { writeTimeout: false } } }, async (_request, reply) => reply.callNotFound())
  })
  await new RawClient(port).get('/').until(/rendered slowly/)
  t.strictSame(log.messages(/^Request cut/), [])
})

t.test('requestTimeout given to Fastify limits the whole request, by Node, and no route can lengthen it', async t => {
  const { fastify, log, port } = await start(t, {}, { requestTimeout: 300 }, app => {
    app.post('/', { config: { gracefulShutdown: { readTimeout: 60_000 } } }, async ({ body }) => body)
    app.post('/plain', async ({ body }) => body)
  })
  t.match(fastify.server, { requestTimeout: 300, headersTimeout: 300 })
  for (const path of ['/', '/plain']) {
    const upload = upload1(port, path)
    // For readTimeout, these would give it 20 s more. At once, because Node resets a connection that is still sending.
    upload.send(KIB.repeat(20))
    t.equal(await upload.status, 408)
  }
  t.strictSame(log.messages(/^Request cut/), [], 'it was cut by Node')
})

t.test('a route can have a readTimeout that is shorter than the requestTimeout given to Fastify', async t => {
  const { log, port } = await start(t, {}, { requestTimeout: 60_000 }, app => {
    app.post('/', { config: { gracefulShutdown: { readTimeout: 60 } } }, async ({ body }) => body)
  })
  t.equal(await upload1(port, '/').status, 408)
  await log.line(/^Request cut: The request was not received within 60 ms/)
})

/** Servers on which Fastify does not set its timeouts. */
const otherServers = {
  'a server for HTTP/2 that allows HTTP/1': async () => ({ http2: true, https: { ...await createCredentials(), allowHTTP1: true } }),
  'a server of a serverFactory': async () => ({ serverFactory: (handler: RequestListener) => createServer(handler) })
}
for (const [what, create] of Object.entries(otherServers)) {
  t.test(`${what}: timeouts that are given to Fastify limit connections over HTTP/1`, async t => {
    const given = { requestTimeout: 300, keepAliveTimeout: 700, connectionTimeout: 2_000 }
    const server = await create()
    const { fastify, log, port } = await start(t, NEVER_ENDING, { ...given, ...server }, app => {
      app.post('/', async ({ body }) => body)
      app.get('/', async () => 'served')
      app.get('/never', () => {})
    })
    t.match(fastify.server, { requestTimeout: 300, headersTimeout: 300, keepAliveTimeout: 700, timeout: 2_000 })
    const client = () => new RawClient('http2' in server ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : port)
    const idle = client().get('/')
    const slow = client().send('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx')
    const waiting = client().get('/never')
    await idle.until(/served/)
    await slow.until(/^HTTP\/1\.1 408 /)
    await Promise.all([idle.closed, waiting.closed])
    t.equal(waiting.text, '', 'Node closed it')
    t.strictSame(log.messages(/^Request cut/), [])
    await fastify.close()
  })

  t.test(`${what}: idle connections over HTTP/1 are closed after idleTimeout`, async t => {
    const { fastify } = await start(t, {}, await create(), () => {})
    t.equal((fastify.server as { keepAliveTimeout?: number }).keepAliveTimeout, 120_000)
  })
}

/** The factories of HTTP/2 servers, and what the user gives to Fastify and to the plugin. */
const sessionTimeouts: Record<string, { timeout?: number, fastify?: object, options?: GracefulOptions }> = {
  'connectionTimeout, which a serverFactory ignores': { fastify: { connectionTimeout: 300 } },
  "idleTimeout, in place of a serverFactory's own server.timeout": { timeout: 60_000, options: { idleTimeout: 300 } },
  "a serverFactory's own server.timeout, with writeTimeout": { timeout: 300, options: { writeTimeout: 60_000 } }
}
for (const [what, { timeout, fastify, options = {} }] of Object.entries(sessionTimeouts)) {
  t.test(`HTTP/2: ${what}, does not end a request in flight`, async t => {
    const { port } = await start(t, options, { ...fastify, ...http2Factory(timeout) }, app => {
      app.get('/', async () => {
        await sleep(1_500)
        return 'served'
      })
    })
    const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
    t.teardown(() => { session.destroy() })
    const stream = session.request().on('error', () => {}).resume()
    const [headers] = await once(stream, 'response') as [Record<string, unknown>]
    t.equal(headers[':status'], 200)
    await once(stream, 'close')
    t.equal(stream.rstCode, 0)
    // The idle session is closed, unless it has Fastify's http2SessionTimeout.
    if (fastify === undefined) await once(session, 'close')
  })
}

t.test('server.timeout and connectionTimeout are kept, also if set after the registration', async t => {
  for (const set of ['connectionTimeout', 'server.timeout'] as const) {
    const { app, log } = await createApp(t, {}, set === 'connectionTimeout' ? { connectionTimeout: 150 } : {})
    if (set === 'server.timeout') app.server.timeout = 150
    const held = heldRoute(app)
    const client = new RawClient(await listen(app)).get('/held')
    await client.closed
    t.equal(client.text, '', 'Node closed it')
    t.strictSame(log.messages(/^Request cut/), [])
    held.release()
  }
  const { app, log } = await createApp(t, { writeTimeout: 60 })
  app.server.timeout = 30_000
  const held = heldRoute(app)
  const own = heldRoute(app, '/own', { gracefulShutdown: { writeTimeout: 100 } })
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await new RawClient(port).get('/own').until(/^HTTP\/1\.1 503 /)
  t.equal(log.messages(/^Request cut/).length, 1)
  held.release()
  await client.until(/"held":true/)
  own.release()
})

/** Timers of the application's that close the connection of a request, and how they are set. */
const timers: Record<string, { server?: object, prepare?: (app: FastifyInstance) => void, handle?: (reply: FastifyReply) => void }> = {
  connectionTimeout: { server: { connectionTimeout: 1_000 } },
  'server.setTimeout()': { prepare: app => { app.server.setTimeout(1_000) } },
  'server.setTimeout() with a listener': { prepare: app => { app.server.setTimeout(1_000, socket => { socket.destroy() }) } },
  'reply.raw.setTimeout()': { handle: reply => { reply.raw.setTimeout(1_000) } },
  'reply.raw.setTimeout() with a listener': { handle: reply => { reply.raw.setTimeout(1_000, () => { reply.raw.destroy() }) } }
}
for (const [name, { server, prepare, handle }] of Object.entries(timers)) {
  for (const begins of [false, true]) {
    t.test(`a request ${begins ? 'that is being answered, and' : 'that'} is ended by ${name} during a shutdown, is named as cut`, async t => {
      const { app, log } = await createApp(t, { shutdownDelay: 5_000 }, server)
      prepare?.(app)
      const entered = new Deferred()
      app.get('/', (_request, reply) => {
        handle?.(reply)
        const answer = new Readable({ read: () => {} })
        answer.push('half')
        if (begins) void reply.send(answer)
        else reply.raw.once('close', () => { void reply.send('too late') })
        entered.resolve()
      })
      const port = await listen(app)
      const client = new RawClient(port).get('/')
      await entered.promise
      const report = app.gracefulShutdown.shutdown()
      // A connection that is idle when the timer expires lost nothing, and neither did a client that leaves.
      const idle = new RawClient(port).get('/ready')
      const leaving = new RawClient(port).get('/')
      await eventually(() => app.inFlightRequests === 2)
      leaving.socket.destroy()
      app.gracefulShutdown.skipDelay()
      await client.closed
      await idle.closed
      t.match(await report, { cut: [{ route: '/', reqId: 'req-1' }], exitCode: 1 })
      t.equal((await report).cut.length, 1)
      t.match(await log.line(/^Request cut: A timeout that the application has set closed the connection/),
        { code: 'FST_ERR_GRACEFUL_CONNECTION_TIMEOUT', reqId: 'req-1' })
    })
  }
}

const ENDS_SOCKET = { clientErrorHandler: (_error: Error, socket: Socket) => { socket.end('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n') } }
for (const [how, server] of [['', {}], [', and a clientErrorHandler answers', ENDS_SOCKET]] as const) {
  t.test(`a request that requestTimeout ends during a shutdown${how}, is named as cut`, async t => {
    const arrived = new Deferred()
    // The requests are checked often, perhaps between the end of the connection and its 'close' event.
    const { fastify, log, port } = await start(t, { writeTimeout: 100 }, { requestTimeout: 1_000, ...server }, app => {
      app.addHook('onRequest', async () => { arrived.resolve() })
      app.post('/', async ({ body }) => body)
    })
    const upload = upload1(port, '/')
    await arrived.promise
    const report = fastify.gracefulShutdown.shutdown()
    t.equal(await upload.status, 408)
    t.match(await report, { cut: [{ route: '/' }], exitCode: 1 })
    await log.line(/^Request cut: A timeout that the application has set closed the connection/)
  })
}

t.test('a request that requestTimeout ends is named as cut, also if it is found gone before its connection emits close', async t => {
  const seen: number[] = []
  const app = Fastify({
    logger: { stream: { write: () => {} } },
    requestTimeout: 1_000,
    clientErrorHandler: (error, socket) => {
      socket.destroy(error)
      seen.push(app.inFlightRequests)
    }
  })
  t.teardown(async () => { await app.close() })
  const arrived = new Deferred()
  // Held ahead of the plugin: such a request is checked whenever the count is read.
  app.addHook('onRequest', (_request, _reply, _done) => { arrived.resolve() })
  await app.register(gracefulPlugin, { signals: false, drainTimeout: 2_000 })
  app.post('/', async ({ body }) => body)
  upload1(await listen(app), '/').status.catch(() => {})
  await arrived.promise
  const cuts = collect(t, 'fastify-graceful:cut')
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ url: '/' }], exitCode: 1 })
  t.strictSame(seen, [1], 'the hook still runs')
  t.strictSame(cuts.filter(({ fastify }) => fastify === app).map(({ code }) => code), ['FST_ERR_GRACEFUL_CONNECTION_TIMEOUT'])
})

t.test('a listener for a timeout that keeps the connection, during a shutdown: nothing is cut', async t => {
  const { app } = await createApp(t)
  let expired = 0
  app.server.setTimeout(50, () => { expired++ })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await eventually(() => expired > 0)
  held.release()
  await client.until(/"held":true/)
  t.match(await report, { cut: { length: 0 }, completed: 1, exitCode: 0 })
})

t.test("keepAliveTimeout: 0 set on the server is kept; Fastify and the plugin treat 0 in Fastify's options as not given", async t => {
  const { app: given } = await createApp(t, {}, { keepAliveTimeout: 0 })
  t.equal(given.server.keepAliveTimeout, 120_000)
  const { app } = await createApp(t, {}, {
    serverFactory: (handler: (request: never, response: never) => void) => createServer({ keepAliveTimeout: 0 }, handler as never)
  })
  t.equal(app.server.keepAliveTimeout, 0)
  app.get('/', async () => 'x')
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/x$/)
  t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 })
  await client.closed
})

for (const server of [{ forceCloseConnections: true }, { forceCloseConnections: 'idle' }, { return503OnClosing: false }] as const) {
  t.test(`${JSON.stringify(server)}: requests in flight are answered, late ones are rejected, and idle connections are closed`, async t => {
    const { app } = await createApp(t, {}, server)
    const held = heldRoute(app)
    app.get('/', async () => 'x')
    const port = await listen(app)
    const idle = new RawClient(port).get('/')
    await idle.until(/x$/)
    const client = new RawClient(port).get('/held')
    await held.entered
    const report = app.gracefulShutdown.shutdown()
    idle.text = ''
    await idle.get('/').until(/^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
    held.release()
    await client.until(/"held":true/)
    t.match(await report, { exitCode: 0, completed: 1, refused: 1, cut: { length: 0 } })
    await Promise.all([idle.closed, client.closed])
  })
}

t.test('writeTimeout does not cut a handler that sends 102 responses', async t => {
  const { app } = await createApp(t, { writeTimeout: 500 })
  app.get('/', async (_request, reply) => {
    for (let time = 0; time < 8; time++) {
      await sleep(200)
      reply.raw.writeProcessing()
    }
    return 'done'
  })
  const client = new RawClient(await listen(app)).get('/', ['Connection: close'])
  await client.closed
  t.match(client.text, /102 Processing[^]*200 OK[^]*done$/)
})

t.test("writeTimeout does not cut responses of code that took over the server's request event", async t => {
  const { app, log } = await createApp(t, { writeTimeout: 200 })
  const held = heldRoute(app)
  // As in socket.io, for its long polls.
  const listeners = app.server.listeners('request') as Array<(request: IncomingMessage, response: ServerResponse) => void>
  app.server.removeAllListeners('request')
  app.server.on('request', (request, response) => {
    if (request.url === '/poll') setTimeout(() => { response.end('polled') }, 1_000)
    else for (const listener of listeners) listener.call(app.server, request, response)
  })
  const port = await listen(app)
  const poll = new RawClient(port).get('/poll', ['Connection: close'])
  const cut = new RawClient(port).get('/held', ['Connection: close'])
  await Promise.all([poll.closed, cut.closed])
  held.release()
  t.match(poll.text, /200 OK[^]*polled$/)
  t.match(cut.text, /503/)
  t.equal(log.messages(/^Request cut/).length, 1)
})

t.test('a handler that reads a body which readTimeout cuts gets an error', async t => {
  const { app } = await createApp(t, { readTimeout: 300 })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
  const told = new Deferred()
  app.post('/', async ({ raw }) => {
    try {
      for await (const chunk of raw) void chunk
    } finally {
      told.resolve()
    }
  })
  const client = new RawClient(await listen(app)).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 1000\r\n\r\nx')
  await client.until(/408 Request Timeout/)
  client.socket.destroy()
  await told.promise
  await eventually(() => app.inFlightRequests === 0)
})

t.test('the media type of an event stream may be in upper case', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 200 })
  app.get('/', (_request, { raw }) => {
    raw.writeHead(200, { 'content-type': 'Text/Event-Stream' })
    raw.write('data: x\n\n')
    setTimeout(() => { raw.end() }, 1_000)
  })
  const client = new RawClient(await listen(app)).get('/', ['Connection: close', 'Accept: Text/Event-Stream'])
  await client.closed
  t.match(client.text, /data: x[^]*0\r\n\r\n$/)
  t.strictSame(log.messages(/^Request cut/), [])
})

t.test('HTTP/2: writeTimeout does not disturb an onTimeout hook', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 300 }, HTTP2)
  const ran: string[] = []
  app.addHook('onTimeout', async () => { ran.push('onTimeout') })
  const held = heldRoute(app)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  t.teardown(() => { session.destroy() })
  const stream = session.request({ ':path': '/held' }).resume()
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  held.release()
  t.equal(headers[':status'], 503)
  t.match(await log.line(/^Request cut/), { code: 'FST_ERR_GRACEFUL_WRITE_TIMEOUT' })
  t.strictSame(ran, [])
})

for (const isPipelined of [true, false]) {
  t.test(`connectionTimeout applies again after a route with a writeTimeout of its own, to the ${isPipelined ? 'next request in the pipeline' : 'next request'}`, async t => {
    const { app } = await createApp(t, { ...NEVER_ENDING, idleTimeout: false }, { connectionTimeout: 700 })
    let timeout = () => -1
    const body = new Readable({ read: () => {} })
    app.get('/stream', { config: { gracefulShutdown: { writeTimeout: 5_000 } } }, ({ raw }, reply) => {
      timeout = () => raw.socket.timeout ?? 0
      body.push('begun')
      void reply.send(body)
    })
    app.get('/hang', (_request, _reply) => {})
    const client = new RawClient(await listen(app)).get('/stream')
    if (isPipelined) client.get('/hang')
    await client.until(/begun/)
    await eventually(() => timeout() > 700)
    body.push(null)
    await client.until(/\r\n0\r\n\r\n$/)
    if (!isPipelined) client.get('/hang')
    const before = performance.now()
    await client.closed
    const time = performance.now() - before
    t.ok(time > 500 && time < 10_000, `closed after ${time} ms`)
  })
}

t.test("writeTimeout emits no 'timeout' event, and runs no onTimeout hook, for a response whose stream is still being read", async t => {
  const { app } = await createApp(t, { writeTimeout: 300 })
  const told: string[] = []
  app.server.on('timeout', socket => {
    told.push('timeout')
    socket.destroy()
  })
  app.addHook('onTimeout', async () => { told.push('onTimeout') })
  app.addHook('onSend', async (_request, _reply, payload) => {
    const end = new Transform({
      transform: (_chunk, _encoding, done) => { done() },
      flush: done => { done(null, 'end') }
    })
    end.push('begun ')
    return (payload as Readable).pipe(end)
  })
  app.get('/', (_request, reply) => {
    async function * parts (): AsyncGenerator<string> {
      for (let part = 0; part < 60; part++) {
        yield 'part'
        await sleep(25)
      }
    }
    void reply.send(Readable.from(parts()))
  })
  const client = new RawClient(await listen(app)).get('/', ['Connection: close'])
  await client.closed
  t.match(client.text, /begun [^]*end[^]*\r\n0\r\n\r\n$/)
  t.strictSame(told, [])
})

t.test('readTimeout limits the headers, although headersTimeout is 0', async t => {
  const { app } = await createApp(t, { readTimeout: 300 }, { http: { headersTimeout: 0 } } as object)
  const client = new RawClient(await listen(app)).send('GET / HTTP/1.1\r\nX: ')
  await client.until(/^HTTP\/1\.1 408 /)
  const { app: unlimited } = await createApp(t, { readTimeout: false }, { http: { headersTimeout: 0 } } as object)
  t.equal(unlimited.server.headersTimeout, 0)
})

t.test('a timeout that the handler of a queued response has set applies instead of writeTimeout', async t => {
  const { app, log } = await createApp(t, { writeTimeout: 300 })
  const first = heldRoute(app, '/first', { gracefulShutdown: { writeTimeout: false } })
  const second = new Deferred()
  app.post('/second', async (_request, reply) => {
    reply.raw.setTimeout(20_000)
    await second.promise
    return 'whole'
  })
  const client = new RawClient(await listen(app)).get('/first')
    .send('POST /second HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
  await first.entered
  // Until the plugin watches the queued response.
  await sleep(700)
  first.release()
  await client.until(/"held":true/)
  await sleep(1_000)
  second.resolve()
  await client.until(/whole$/)
  t.strictSame(log.messages(/^Request cut/), [])
})

/** Handlers get the body as it arrives. */
function parseNothing (app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
}

for (const [name, server, connect] of protocols) {
  t.test(`${name}: a response that has been sent is not cut, although its handler reads nothing for longer than writeTimeout`, async t => {
    const read = new Deferred<number>()
    const { fastify, log, port } = await start(t, { writeTimeout: 300 }, server, app => {
      parseNothing(app)
      app.post('/', async ({ raw }, reply) => {
        let length = 0
        for await (const chunk of raw) {
          length += (chunk as Buffer).length
          if (length === 1) {
            // Until it answers, its progress is watched.
            await sleep(250)
            void reply.code(202).send('accepted')
            await sleep(1_000)
          }
          // Not after the loop: on HTTP/2, Node may end it with an error.
          if (length === 60_000) read.resolve(length)
        }
      })
    })
    const upload = connect(port)('/', 60_000)
    upload.send('x')
    await eventually(() => fastify.inFlightRequests === 1)
    upload.send('x'.repeat(59_999))
    t.equal(await upload.status, 202)
    t.equal(await read.promise, 60_000)
    upload.end()
    await eventually(() => fastify.inFlightRequests === 0)
    t.strictSame(log.messages(/^Request cut/), [])
  })

  t.test(`${name}: readTimeout names an answered request whose handler still reads`, async t => {
    const failed = new Deferred<unknown>()
    const { fastify, log, port } = await start(t, { readTimeout: 300 }, server, app => {
      parseNothing(app)
      app.post('/', async ({ raw }, reply) => {
        void reply.code(202).send('accepted')
        try {
          for await (const chunk of raw) void chunk
        } catch (error) {
          failed.resolve(error)
        }
      })
    })
    const upload = connect(port)('/')
    upload.closed.catch(() => {})
    upload.send('x')
    t.equal(await upload.status, 202)
    t.type(await failed.promise, Error)
    t.match(await log.line(/^Request cut/), { code: 'FST_ERR_GRACEFUL_READ_TIMEOUT', route: '/' })
    await eventually(() => fastify.inFlightRequests === 0)
  })

  t.test(`${name}: a handler that turns its own timeout off is limited by writeTimeout again`, async t => {
    const { log, port } = await start(t, { ...NEVER_ENDING, writeTimeout: 300 }, server, app => {
      app.post('/', async (_request, { raw }) => {
        // Until then, its progress is watched.
        await sleep(250)
        raw.setTimeout(20_000)
        await sleep(100)
        raw.setTimeout(0)
        await new Promise(() => {})
      })
    })
    const upload = connect(port)('/', 2)
    upload.send('xx')
    upload.end()
    t.equal(await upload.status, 503)
    await log.line(/^Request cut: The response made no progress for 300 ms/)
  })
}
