// Hooks registered before the plugin may hold a request, answer it or fail before the plugin's own hook runs.

import t from 'tap'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Test } from 'tap'
import type { GracefulOptions } from '../index.ts'
import { connect as connectHttp2 } from 'node:http2'
import { once } from 'node:events'
import { Writable } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createCredentials } from './credentials.ts'
import { Deferred, eventually, listen, Log, phaseBegins, RawClient } from './helpers.ts'

/** An instance with hooks ahead of the plugin's. */
async function createBehind (t: Test, addHooks: (app: FastifyInstance) => void, options: GracefulOptions = {}, server = {}) {
  const log = new Log()
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { log.write(chunk.toString()); done() } })
  const app = Fastify({ logger: { level: 'debug', stream }, ...server }) as FastifyInstance
  t.teardown(async () => { await app.close() })
  addHooks(app)
  await app.register(gracefulPlugin, options)
  return { app, log }
}

interface Hold {
  addHook: (app: FastifyInstance) => void
  /** The number of requests that have reached the hook. */
  entered: () => number
  release: () => void
}

/** An async onRequest hook that holds each request whose path begins with /held. */
function createHold (): Hold {
  let entered = 0
  const released = new Deferred()
  return {
    addHook: app => {
      app.addHook('onRequest', async request => {
        if (!request.url.startsWith('/held')) return
        entered++
        await released.promise
      })
      app.get('/held', async () => 'held').get('/quick', async () => 'quick')
    },
    entered: () => entered,
    release: () => { released.resolve() }
  }
}

/** Sends a request and returns how it was answered. */
interface Sender {
  server: object
  /** `answer()`: the status. `whole()`: the status and the body, once no more can come. */
  send: (port: number, path: string) => Promise<{ answer: () => Promise<string>, whole: () => Promise<string> }>
}

const senders: Record<string, Sender> = {
  'HTTP/1': {
    server: {},
    send: async (port, path) => {
      const client = new RawClient(port).get(path)
      return {
        answer: async () => {
          await Promise.race([client.until(/^HTTP\/1\.1 \d+ /), client.closed])
          return client.text.split('\r\n')[0]?.slice(9, 12) ?? ''
        },
        whole: async () => {
          await client.closed
          const [head = '', ...body] = client.text.split('\r\n\r\n')
          return `${head.slice(9, 12)} ${body.join('\r\n\r\n')}`
        }
      }
    }
  },
  'HTTP/2': {
    server: { http2: true },
    send: async (port, path) => {
      const session = connectHttp2(`http://127.0.0.1:${port}`)
      session.on('error', () => {})
      const stream = session.request({ ':path': path })
      let [status, body, hasEnded] = ['', '', false]
      stream.on('response', headers => { status = String(headers[':status']) }).on('error', () => {}).setEncoding('latin1')
      stream.on('data', chunk => { body += chunk }).on('end', () => { hasEnded = true })
      const closed = new Promise<void>(resolve => { stream.on('close', () => { resolve() }) })
      const answer = async () => {
        await closed
        session.close()
        return stream.rstCode === 0 ? status : `${status}, but reset with ${stream.rstCode}`
      }
      return { answer, whole: async () => `${await answer()}${hasEnded ? '' : ', without its end'} ${body}` }
    }
  }
}

const LARGE = `${'x'.repeat(300_000)}end`

/** How a hook ends a request that it has held, and what the client then reads. */
const endings: Array<[how: string, end: (reply: FastifyReply) => unknown, answer: string]> = [
  ['answers', reply => reply.code(401).send(LARGE), `401 ${LARGE}`],
  ['fails', () => { throw new Error(LARGE) }, `500 ${JSON.stringify({ statusCode: 500, error: 'Internal Server Error', message: LARGE })}`],
  ['hijacks and answers', reply => {
    reply.hijack()
    reply.raw.writeHead(418, { 'content-length': LARGE.length })
    reply.raw.end(LARGE)
  }, `418 ${LARGE}`]
]

/** When a hook ends it: what begins the shutdown, whether that has begun, and whether the request arrives only while draining. */
type Moment = [when: string, begin: (app: FastifyInstance) => void, hasBegun: (app: FastifyInstance) => boolean, isLate: boolean]
const moments: Moment[] = [
  ['the drain has begun', app => { void app.gracefulShutdown.shutdown() }, app => app.gracefulShutdown.phase === 'draining', false],
  ['the application has closed the listener', app => { app.server.close() }, app => !app.server.listening, false],
  ['the drain is over', app => { void app.gracefulShutdown.shutdown() }, app => app.gracefulShutdown.phase === 'closing', true],
  ['the plugin has closed the listener', app => { void app.gracefulShutdown.shutdown() }, app => !app.server.listening, true]
]

for (const [protocol, { server, send }] of Object.entries(senders)) {
  for (const [when, begin, hasBegun, isLate] of moments) {
    for (const [how, end, expected] of endings) {
      t.test(`${protocol}: the client gets the answer of a hook that ${how} only once ${when}`, async t => {
        const hold = createHold()
        const released = new Deferred()
        let isHeld = false
        const { app } = await createBehind(t, instance => {
          instance.addHook('onRequest', async (request, reply) => {
            if (request.url !== '/ahead') return
            isHeld = true
            await released.promise
            await end(reply)
          })
          hold.addHook(instance)
        }, {}, server)
        t.teardown(released.resolve)
        const port = await listen(app)
        // It keeps the drain open until the other one has arrived.
        const other = await send(port, '/held')
        await eventually(() => hold.entered() === 1)
        const report = app.gracefulShutdown.wait()
        if (isLate) {
          begin(app)
          await phaseBegins(app, 'draining')
        }
        const { whole } = await send(port, '/ahead')
        await eventually(() => isHeld)
        if (!isLate) begin(app)
        else hold.release()
        // At once, because a client that waits for its answer is only waited for a short time.
        while (!hasBegun(app)) await new Promise(resolve => { setImmediate(resolve) })
        released.resolve()
        const answer = await whole()
        t.equal(answer.slice(0, 100), expected.slice(0, 100))
        t.ok(answer === expected, `whole: ${answer.length} of ${expected.length}`)
        hold.release()
        t.equal(await other.answer(), '200')
        t.match(await report, { completed: isLate ? 1 : 2, refused: 0, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
        t.equal(app.inFlightRequests, 0)
        t.strictSame(app.gracefulShutdown.inFlight(), [])
      })
    }
  }

  t.test(`${protocol}: a request that a hook holds before the shutdown is waited for`, async t => {
    const hold = createHold()
    const { app } = await createBehind(t, hold.addHook, {}, server)
    const { answer } = await send(await listen(app), '/held?token=secret')
    await eventually(() => hold.entered() === 1)
    t.equal(app.inFlightRequests, 1)
    const [entry] = app.gracefulShutdown.inFlight()
    t.match(entry, { kind: 'request', method: 'GET', url: '/held' })
    t.notMatch(JSON.stringify(entry), /secret/)
    const report = app.gracefulShutdown.shutdown()
    await phaseBegins(app, 'draining')
    hold.release()
    t.equal(await answer(), '200')
    t.match(await report, { completed: 1, refused: 0, cut: { length: 0 }, exitCode: 0 })
  })

  t.test(`${protocol}: a request that a hook holds past the drain timeout gets a 503 and is named`, async t => {
    const hold = createHold()
    const { app, log } = await createBehind(t, hold.addHook, { drainTimeout: 200 }, server)
    const { answer } = await send(await listen(app), '/held?token=secret')
    await eventually(() => hold.entered() === 1)
    const report = await app.gracefulShutdown.shutdown()
    t.equal(await answer(), '503')
    t.match(report, { completed: 0, cut: [{ kind: 'request', method: 'GET', url: '/held' }], exitCode: 1 })
    t.equal(report.cut.length, 1)
    t.match(await log.line(/^Request cut/), { level: 50, code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT' })
    hold.release()
  })

  for (const until of ['while draining', 'until the listener is closed']) {
    t.test(`${protocol}: a request that arrives while draining and is held ${until} gets a 503`, async t => {
      const hold = createHold()
      const lateRequests: Array<() => void> = []
      const { app } = await createBehind(t, instance => {
        instance.addHook('onRequest', async request => {
          if (request.url === '/late') await new Promise<void>(resolve => { lateRequests.push(resolve) })
        })
        hold.addHook(instance)
        instance.get('/late', async () => 'late')
      }, {}, server)
      t.teardown(() => { for (const resolve of lateRequests) resolve() })
      const port = await listen(app)
      const first = await send(port, '/held')
      await eventually(() => hold.entered() === 1)
      const report = app.gracefulShutdown.shutdown()
      await phaseBegins(app, 'draining')
      const second = await send(port, '/late')
      await eventually(() => lateRequests.length === 1)
      if (until === 'while draining') lateRequests[0]?.()
      hold.release()
      t.equal(await first.answer(), '200')
      t.equal(await second.answer(), '503')
      t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
    })
  }

  t.test(`${protocol}: a request that a hook answers or fails does not count any longer, and later ones are served`, async t => {
    let isAnswerAwaited = false
    const { app } = await createBehind(t, instance => {
      instance.addHook('onRequest', async (request, reply) => {
        if (request.url === '/answers') {
          await reply.code(401).send('no')
          isAnswerAwaited = true
        }
        if (request.url === '/throws') throw new Error('x')
        if (request.url === '/hijacks') {
          reply.hijack()
          reply.raw.writeHead(418)
          reply.raw.end('raw')
        }
      })
      instance.addHook('onRequest', (request, _reply, done) => { done(request.url === '/fails' ? new Error('y') : undefined) })
      instance.get('/quick', async () => 'quick')
    }, {}, server)
    const port = await listen(app)
    const expected = { '/answers': '401', '/throws': '500', '/fails': '500', '/hijacks': '418', '/quick': '200' }
    const answers = await Promise.all(Object.keys(expected).map(async path => await send(port, path)))
    t.strictSame(await Promise.all(answers.map(async ({ answer }) => await answer())), Object.values(expected))
    await eventually(() => app.inFlightRequests === 0)
    t.ok(isAnswerAwaited)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })

  t.test(`${protocol}: a request whose onResponse hook fails ahead of the plugin's does not count any longer`, async t => {
    const { app } = await createBehind(t, instance => {
      instance.addHook('onResponse', async () => { throw new Error('metrics') })
      instance.get('/quick', async () => 'quick')
    }, {}, server)
    const port = await listen(app)
    const answers = await Promise.all(['/quick', '/quick', '/nothing'].map(async path => await send(port, path)))
    t.strictSame(await Promise.all(answers.map(async ({ answer }) => await answer())), ['200', '200', '404'])
    await eventually(() => app.inFlightRequests === 0)
    const report = await app.gracefulShutdown.shutdown()
    t.match(report, { cut: { length: 0 }, exitCode: 0 })
    t.ok(report.phases.closing < 700, `closing took ${report.phases.closing}ms`)
  })

  t.test(`${protocol}: a request whose onResponse hook fails while draining does not delay the end of the drain`, async t => {
    const hold = createHold()
    const { app } = await createBehind(t, instance => {
      instance.addHook('onResponse', async () => { throw new Error('metrics') })
      hold.addHook(instance)
    }, {}, server)
    const { answer } = await send(await listen(app), '/held')
    await eventually(() => hold.entered() === 1)
    const report = app.gracefulShutdown.shutdown()
    await phaseBegins(app, 'draining')
    hold.release()
    t.equal(await answer(), '200')
    t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
    t.ok((await report).phases.draining < 2_000, `drained for ${(await report).phases.draining}ms`)
  })
}

for (const protocol of ['HTTP', 'HTTPS']) {
  t.test(`${protocol}: pipelined requests that a hook holds until connections are closed all get their 503`, async t => {
    const { key, cert } = await createCredentials()
    const hold = createHold()
    t.teardown(hold.release)
    const { app } = await createBehind(t, hold.addHook, { drainTimeout: 300, shutdownTimeout: 2_000 }, protocol === 'HTTPS' ? { https: { key, cert } } : {})
    const port = await listen(app)
    const connect = () => new RawClient(protocol === 'HTTPS' ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false }) : port)
    const [first, late] = [connect().get('/held'), connect().get('/quick')]
    await late.until(/quick/)
    await eventually(() => hold.entered() === 1)
    const report = app.gracefulShutdown.shutdown()
    const another = connect()
    await phaseBegins(app, 'closing')
    another.get('/held/1').get('/held/2').get('/held/3')
    await another.closed
    t.equal(another.text.match(/HTTP\/1\.1 503 /g)?.length, 3)
    await first.closed
    t.match(await report, { cut: [{ url: '/held' }], refused: 3 })
  })
}

t.test("an error handler that works on after its answer to a failed hook ahead of the plugin's counts until it settles", async t => {
  const { app } = await createBehind(t, instance => { instance.addHook('onRequest', async () => { throw new Error('ahead') }) })
  const work = new Deferred()
  app.setErrorHandler(async (_error, _request, reply) => {
    reply.code(418).send()
    await work.promise
  })
  app.get('/', async () => 'never')
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/418/)
  t.equal(app.inFlightRequests, 1)
  work.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test("an application's error handler gets the error of a hook ahead of the plugin's", async t => {
  const { app } = await createBehind(t, instance => { instance.addHook('onRequest', async () => { throw new Error('ahead') }) })
  app.setErrorHandler<Error>(async ({ message }, _request, reply) => await reply.code(418).send(message))
  app.get('/', async () => 'never')
  const response = await app.inject('/')
  t.match(response, { statusCode: 418, body: 'ahead' })
  t.equal(app.inFlightRequests, 0)
})

t.test('a request whose client disconnects while a hook holds it does not count forever', async t => {
  const hold = createHold()
  const { app } = await createBehind(t, hold.addHook)
  const client = new RawClient(await listen(app)).get('/held')
  await eventually(() => hold.entered() === 1)
  client.socket.destroy()
  await client.closed
  hold.release()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a request that a hook holds for longer than writeTimeout is cut, and the service continues', async t => {
  const hold = createHold()
  const { app, log } = await createBehind(t, hold.addHook, { writeTimeout: 200, drainTimeout: 500 })
  const port = await listen(app)
  const client = new RawClient(port).get('/held?token=secret')
  t.match(await log.line(/^Request cut/), { code: 'FST_ERR_GRACEFUL_WRITE_TIMEOUT', url: '/held' })
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503/)
  hold.release()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('of a pipeline, requests that a hook holds are each waited for', async t => {
  const hold = createHold()
  const { app } = await createBehind(t, hold.addHook)
  const client = new RawClient(await listen(app)).get('/held').get('/quick').get('/held')
  await eventually(() => hold.entered() === 2)
  await eventually(() => app.inFlightRequests === 3)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  hold.release()
  await client.closed
  t.equal(client.text.match(/200 OK/g)?.length, 3)
  t.match(await report, { completed: 3, cut: { length: 0 }, exitCode: 0 })
})

t.test('of a pipeline, requests that a hook holds past the drain timeout are each answered with 503 and named', async t => {
  const hold = createHold()
  const { app } = await createBehind(t, hold.addHook, { drainTimeout: 200 })
  const client = new RawClient(await listen(app)).get('/held').get('/quick').get('/held')
  await eventually(() => hold.entered() === 2)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.strictSame(client.text.match(/(?<=HTTP\/1\.1 )\d+/g), ['503', '200', '503'])
  t.match(report.cut.map(entry => 'url' in entry && entry.url), ['/held', '/held'])
  hold.release()
})

t.test('a request behind one in flight that is held while draining is answered with 503', async t => {
  const hold = createHold()
  const released = new Deferred()
  const { app } = await createBehind(t, hold.addHook)
  app.get('/slow', async () => { await released.promise })
  const client = new RawClient(await listen(app)).get('/slow')
  await eventually(() => app.inFlightRequests === 1)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  client.get('/held')
  await eventually(() => hold.entered() === 1)
  released.resolve()
  await client.closed
  t.strictSame(client.text.match(/(?<=HTTP\/1\.1 )\d+/g), ['200', '503'])
  t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
  hold.release()
})

t.test('an upload that a hook holds while draining gets its 503', async t => {
  const hold = createHold()
  const { app } = await createBehind(t, instance => {
    hold.addHook(instance)
    instance.post('/held', async () => 'read')
  })
  const port = await listen(app)
  const first = new RawClient(port).get('/held')
  await eventually(() => hold.entered() === 1)
  const report = app.gracefulShutdown.shutdown()
  await phaseBegins(app, 'draining')
  const upload = new RawClient(port).send('POST /held HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nhalf')
  await eventually(() => hold.entered() === 2)
  hold.release()
  await once(upload.socket, 'readable').catch(() => {})
  upload.send('x'.repeat(100_000 - 4))
  await Promise.all([first.closed, upload.closed])
  t.match(first.text, /^HTTP\/1\.1 200/)
  t.match(upload.text, /^HTTP\/1\.1 503/)
  t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('an injected request that a hook holds is answered, and does not count forever', async t => {
  const hold = createHold()
  const { app } = await createBehind(t, hold.addHook)
  const answer = app.inject('/held')
  await eventually(() => hold.entered() === 1)
  const report = app.gracefulShutdown.shutdown()
  hold.release()
  t.ok([200, 503].includes((await answer).statusCode))
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.equal(app.inFlightRequests, 0)
})
