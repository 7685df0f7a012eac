// Handlers and background work: how a thenable is called, and how long a request counts as in flight.

import t from 'tap'
import type { Test } from 'tap'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { TestApp } from './helpers.ts'
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import { connect as connectHttp2, type Http2ServerResponse } from 'node:http2'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { types } from 'node:util'
import { runInNewContext } from 'node:vm'
import { replaceMethod } from '../lib/before-call.ts'
import { COVERED, createApp, Deferred, eventually, fork, listen, phaseBegins, portOf, RawClient, visit } from './helpers.ts'

// oxlint-disable unicorn/no-thenable

type Callback = (value: unknown) => unknown
type OnFulfilled<A> = ((value: unknown) => A | PromiseLike<A>) | null
type OnRejected<B> = ((reason: unknown) => B | PromiseLike<B>) | null

/** A query builder: each call of `then` runs the query again. */
class Query implements PromiseLike<unknown> {
  runs = 0
  readonly #query: () => unknown

  constructor (query: () => unknown) {
    this.#query = query
  }

  then<A = unknown, B = never> (onFulfilled?: OnFulfilled<A>, onRejected?: OnRejected<B>): Promise<A | B> {
    this.runs++
    return new Promise(resolve => { resolve(this.#query()) }).then(onFulfilled, onRejected)
  }
}

/** A promise that starts its work as `then` is called. */
class LazyPromise extends Promise<unknown> {
  runs = 0
  query: () => unknown = () => undefined

  static of (query: () => unknown): LazyPromise {
    return Object.assign(new LazyPromise(() => {}), { query })
  }

  static override get [Symbol.species] (): PromiseConstructor {
    return Promise
  }

  override then<A, B> (onFulfilled?: OnFulfilled<A>, onRejected?: OnRejected<B>): Promise<A | B> {
    this.runs++
    return new Promise(resolve => { resolve(this.query()) }).then(onFulfilled, onRejected)
  }
}

/** A thenable whose `then` throws. */
const broken = (): PromiseLike<unknown> => ({ then () { throw new Error('broken') } })

/** A proxy such as a remote value of comlink: its `then` does not depend on what is set on its target. */
function remote (value: unknown): { proxy: PromiseLike<unknown>, target: object } {
  const target = {}
  const then = (onFulfilled: Callback) => { onFulfilled(value) }
  return { proxy: new Proxy(target, { get: (_target, key) => key === 'then' ? then : undefined }) as PromiseLike<unknown>, target }
}

const lazy: Record<string, (query: () => unknown) => PromiseLike<unknown> & { runs: number }> = {
  'a query builder': query => new Query(query),
  'a lazy subclass of Promise': query => LazyPromise.of(query)
}

for (const [what, make] of Object.entries(lazy)) {
  t.test(`${what} that a handler returns runs once, and counts until it settles`, async t => {
    const { app } = await createApp(t)
    const released = new Deferred()
    const entered = new Deferred()
    const query = make(async () => {
      entered.resolve()
      await released.promise
      return 'rows'
    })
    app.get('/', () => query)
    const { client, leave } = await visit(app, await listen(app))
    client.get('/')
    await entered.promise
    t.equal(app.inFlightRequests, 1)
    const report = app.gracefulShutdown.shutdown()
    await leave()
    t.equal(app.gracefulShutdown.phase, 'draining', 'its client has disconnected, and it continues to run')
    t.equal(app.inFlightRequests, 1)
    released.resolve()
    t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    t.equal(query.runs, 1)
  })

  t.test(`${what} runs once, whether it sends the reply, fails, or is returned by an async handler`, async t => {
    const { app } = await createApp(t)
    const made: Array<{ runs: number }> = []
    const routes: Record<string, (request: FastifyRequest, reply: FastifyReply) => () => unknown> = {
      '/resolves': () => () => 'rows',
      '/rejects': () => () => { throw new Error('no such table') },
      '/answers': (_request, reply) => async () => await reply.send('rows')
    }
    for (const [url, query] of Object.entries(routes)) {
      app.get(url, (request, reply) => {
        const thenable = make(query(request, reply))
        made.push(thenable)
        return thenable
      })
      app.get(`/async${url}`, async (request, reply) => {
        const thenable = make(query(request, reply))
        made.push(thenable)
        return await thenable
      })
    }
    for (const url of Object.keys(routes).flatMap(path => [path, `/async${path}`])) {
      const { statusCode, body } = await app.inject(url)
      t.match({ statusCode, body }, url.endsWith('/rejects') ? { statusCode: 500, body: /no such table/ } : { statusCode: 200, body: 'rows' }, url)
    }
    t.strictSame(made.map(({ runs }) => runs), [1, 1, 1, 1, 1, 1])
    await eventually(() => app.inFlightRequests === 0)
  })

  t.test(`${what} that is tracked runs once, when its caller awaits it`, async t => {
    const { app, log } = await createApp(t)
    const { gracefulShutdown } = app
    const released = new Deferred()
    const query = make(async () => {
      await released.promise
      return 'rows'
    })
    t.equal(gracefulShutdown.track(query, 'query'), query, 'returns the same object')
    await sleep(0)
    t.equal(query.runs, 0, 'the plugin does not run it')
    const rows = (async () => await query)()
    await eventually(() => query.runs === 1)
    const report = gracefulShutdown.shutdown()
    await phaseBegins(app, 'draining')
    t.match(gracefulShutdown.inFlight(), [{ kind: 'task', name: 'query' }])
    released.resolve()
    t.equal(await rows, 'rows')
    t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    t.equal(query.runs, 1)
    await query
    t.equal(query.runs, 2, 'its caller may run it again')
    t.strictSame(log.lines.filter(({ level }) => level >= 50), [])
  })

  t.test(`${what} that is tracked and never awaited is not run, and is named at the drain timeout`, async t => {
    const { app } = await createApp(t, { drainTimeout: 100 })
    const query = app.gracefulShutdown.track(make(() => 'rows'), 'forgotten')
    t.match(await app.gracefulShutdown.shutdown(), { cut: [{ kind: 'task', name: 'forgotten' }], exitCode: 1 })
    t.equal(query.runs, 0)
  })

  t.test(`${what} that is tracked and fails is logged at error, and its caller gets the error`, async t => {
    const { app, log } = await createApp(t)
    const query = app.gracefulShutdown.track(make(() => { throw new Error('no such table') }), 'query')
    await t.rejects((async () => await query)(), { message: 'no such table' })
    t.match(await log.line(/query/), { level: 50, err: { message: 'no such table' } })
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 }, 'while the service ran, only its caller gets the error')
  })
}

t.test('a tracked promise that rejects is logged at error, and is in the report if the shutdown has started', async t => {
  const { app, log } = await createApp(t)
  const { gracefulShutdown } = app
  const [early, late, value] = [new Deferred(), new Deferred(), new Deferred()]
  for (const [name, { promise }] of Object.entries({ early, late, value })) gracefulShutdown.track(promise, name).catch(() => {})
  early.reject(new Error('while running'))
  t.match(await log.line(/early/), { level: 50, err: { message: 'while running' } })
  const report = gracefulShutdown.shutdown()
  late.reject(new Error('while draining'))
  value.reject(undefined as unknown as Error)
  t.match(await log.line(/late/), { level: 50, err: { message: 'while draining' } })
  t.match(await report, { cut: { length: 0 }, errors: [{ message: 'while draining' }, { message: /undefined/ }], exitCode: 1 })
  t.equal((await report).errors.length, 2)
})

t.test('a tracked promise that rejects without a handler does not end the process', async t => {
  const { app, log } = await createApp(t)
  let unhandled = 0
  const onUnhandled = (): void => { unhandled++ }
  process.on('unhandledRejection', onUnhandled)
  t.teardown(() => { process.off('unhandledRejection', onUnhandled) })
  void app.gracefulShutdown.track(Promise.reject(new Error('lost')), 'fire and forget')
  await log.line(/fire and forget/)
  await sleep(10)
  t.equal(unhandled, 0)
})

t.test('a tracked promise of another realm is observed, as those of `node:fs/promises` in Jest are', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 500 })
  const { resolve, promise, reject, failing } = runInNewContext(`
    const it = {}
    it.promise = new Promise(resolve => { it.resolve = resolve })
    it.failing = new Promise((_, reject) => { it.reject = reject })
    it`) as { promise: Promise<void>, resolve: () => void, failing: Promise<void>, reject: (error: Error) => void }
  void app.gracefulShutdown.track(promise, 'write')
  void app.gracefulShutdown.track(failing, 'failing')
  resolve()
  reject(new Error('disk'))
  t.match(await Promise.race([log.line(/failing/), sleep(1_000)]), { level: 50 })
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a tracked proxy that shows what is set on it is observed, as those of Prisma are', async t => {
  const { app } = await createApp(t)
  let runs = 0
  const then = (onFulfilled: Callback) => {
    runs++
    onFulfilled('rows')
  }
  const tracked = app.gracefulShutdown.track(new Proxy({ then }, {}) as PromiseLike<unknown>, 'query')
  t.match(app.gracefulShutdown.inFlight(), [{ name: 'query' }])
  t.equal(await tracked, 'rows')
  t.equal(runs, 1)
  t.strictSame(app.gracefulShutdown.inFlight(), [])
})

for (const library of ['zone.js/node', 'bluebird']) {
  t.test(`cleanup waits for handlers and background work if ${library} has replaced the global Promise`, async t => {
    const program = fork(t, 'own-promise', { LIBRARY: library, ...COVERED })
    const port = await portOf(program)
    for (const path of ['/job', '/global']) {
      const client = new RawClient(port).send(`POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
      await client.closed
      t.match(client.text, /^HTTP\/1\.1 202 /)
    }
    program.kill('SIGTERM')
    t.equal((await program.log.line(/^ended/)).msg, 'ended: async, function, global, global handler, handler')
    t.strictSame(await program.exit, { code: 0, signal: null })
  })
}

t.test('a tracked thenable whose `then` throws does not delay the end of the drain', async t => {
  const { app, log } = await createApp(t)
  const thenable = app.gracefulShutdown.track(broken(), 'broken')
  await t.rejects((async () => { await thenable })(), { message: 'broken' })
  t.match(await log.line(/broken/), { level: 50, err: { message: 'broken' } })
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('track() rejects what it cannot observe and does not count it', async t => {
  const { app } = await createApp(t)
  const getter = Object.defineProperty({}, 'then', { get () { throw new Error('no') } })
  const { proxy, target } = remote('rows')
  for (const value of [getter, Object.freeze(new Query(() => 'rows')), new Proxy({}, { get () { throw new Error('no') } }), proxy]) {
    t.throws(() => { void app.gracefulShutdown.track(value as Promise<void>) }, { code: 'FST_ERR_GRACEFUL_TRACK_INVALID' })
  }
  t.strictSame(Reflect.ownKeys(target), [], 'and leaves it as it is')
  t.strictSame(app.gracefulShutdown.inFlight(), [])
})

t.test('a thenable whose `then` throws, returned by a handler, is answered with its error and does not count any longer', async t => {
  const { app } = await createApp(t)
  app.get('/throws', () => broken())
  app.get('/both', () => ({
    then (_resolve: Callback, reject: Callback) {
      reject(new Error('broken'))
      throw new Error('and thrown')
    }
  }))
  const port = await listen(app)
  for (const url of ['/throws', '/both']) {
    const client = new RawClient(port).get(url, ['Connection: close'])
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 500[^]*broken/)
  }
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

/** The events so far, in order; cleanup must come last. */
function cleanupOf ({ app }: TestApp): string[] {
  const events: string[] = []
  app.addHook('onClose', async () => { events.push('onClose') })
  app.gracefulShutdown.onShutdown(() => { events.push('callback') })
  return events
}

interface Work { started: Deferred, done: Deferred }

/** Ways to send the response first and continue to work. */
const workers: Record<string, (app: FastifyInstance, work: (...args: unknown[]) => Promise<void>) => unknown> = {
  'an async handler': (app, work) => app.get('/work', async (_request, reply) => {
    reply.code(202).send('accepted')
    await work()
  }),
  'a handler that returns a promise': (app, work) => app.get('/work', (_request, reply) => {
    reply.code(202).send('accepted')
    return work()
  }),
  'a handler that returns a query builder': (app, work) => app.get('/work', (_request, reply) => {
    reply.code(202).send('accepted')
    return new Query(work)
  }),
  'a handler that writes its response itself': (app, work) => app.get('/work', async (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(202).end('accepted')
    await work()
  }),
  'a handler that sends a stream': (app, work) => app.get('/work', async (_request, reply) => {
    reply.code(202).send(new Response('accepted').body)
    await work()
  }),
  'a handler in a child context': (app, work) => app.register(async child => {
    child.get('/work', async (_request, reply) => {
      reply.code(202).send('accepted')
      await work()
    })
  }),
  'a not-found handler': (app, work) => app.setNotFoundHandler(async (_request, reply) => {
    reply.code(202).send('accepted')
    await work()
  }),
  'an error handler': (app, work) => app.get('/work', async () => { throw new Error('x') }).setErrorHandler(async (_error, _request, reply) => {
    reply.code(202).send('accepted')
    await work()
  }),
  'handlerTimeout of the server': (app, work) => app.get('/work', async () => { await work() }),
  'handlerTimeout of a route': (app, work) => app.get('/work', { handlerTimeout: 100 }, async () => { await work() })
}

function startWorker (what: string, app: FastifyInstance): Work {
  const [started, done] = [new Deferred(), new Deferred()]
  workers[what]?.(app, async () => {
    started.resolve()
    await done.promise
  })
  return { started, done }
}

for (const what of Object.keys(workers)) {
  const server = what === 'handlerTimeout of the server' ? { handlerTimeout: 100 } : {}
  const status = what.startsWith('handlerTimeout') ? 503 : 202

  t.test(`${what}: an answered request counts until its work is done, and cleanup waits for that`, async t => {
    // On a busy machine, this timeout could come before handlerTimeout.
    const target = await createApp(t, what.startsWith('handlerTimeout') ? {} : { writeTimeout: 400 }, server)
    const { app, log } = target
    const events = cleanupOf(target)
    const { started, done } = startWorker(what, app)
    app.get('/quick', async () => 'quick')
    const client = new RawClient(await listen(app)).get('/work')
    await client.until(new RegExp(`HTTP/1.1 ${status}`))
    await started.promise
    t.equal(app.inFlightRequests, 1)
    client.get('/quick')
    await client.until(/quick/)
    await sleep(600)
    t.strictSame(log.messages(/^Request cut/), [], 'writeTimeout applies to responses, not to the work after them')
    const report = app.gracefulShutdown.shutdown()
    await Promise.race([log.line(/Waiting for 1 in-flight request /), report])
    // Longer than the shutdown waits for connections.
    await Promise.race([sleep(300), report])
    t.strictSame(events, [])
    events.push('worked')
    done.resolve()
    t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    t.strictSame(events, ['worked', 'onClose', 'callback'])
    t.equal(app.inFlightRequests, 0)
  })

  t.test(`${what}: work that continues after the response is named at the drain timeout`, async t => {
    const target = await createApp(t, { drainTimeout: 200 }, server)
    const { app } = target
    const { started, done } = startWorker(what, app)
    const client = new RawClient(await listen(app)).get('/work')
    await client.until(new RegExp(`HTTP/1.1 ${status}`))
    await started.promise
    const report = await app.gracefulShutdown.shutdown()
    t.match(report, { cut: [{ kind: 'request', method: 'GET', url: '/work', reqId: 'req-1' }], exitCode: 1 })
    t.equal(report.cut.length, 1)
    t.ok(Number(report.cut[0]?.age) >= 199, `${report.cut[0]?.age}ms old`)
    await client.closed
    t.equal(client.text.match(/HTTP\/1\.1/g)?.length, 1, 'its response is unchanged')
    done.resolve()
    await eventually(() => app.inFlightRequests === 0)
  })
}

t.test('an answered request whose handler continues grows older', async t => {
  const { app } = await createApp(t)
  const { started, done } = startWorker('an async handler', app)
  const client = new RawClient(await listen(app)).get('/work')
  await client.until(/\r\n\r\n/)
  await started.promise
  await sleep(200)
  const [entry] = app.gracefulShutdown.inFlight()
  t.ok(Number(entry?.age) >= 199, `${entry?.age}ms old`)
  done.resolve()
})

t.test('HTTP/2: an answered request counts until its handler is done', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  const { done } = startWorker('an async handler', app)
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const stream = session.request({ ':path': '/work' }).resume()
  await once(stream, 'close')
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  await once(session, 'close')
  t.equal(app.gracefulShutdown.phase, 'draining')
  done.resolve()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

t.test('HTTP/2: a reply that is awaited settles once a file that was given to its stream has been sent', async t => {
  const { app } = await createApp(t, {}, { http2: true } as object)
  const path = join(t.testdir({ file: 'x'.repeat(4_000_000) }), 'file')
  app.get('/', async (_request, reply) => {
    const file = await open(path)
    ;(reply.raw as unknown as Http2ServerResponse).stream.respondWithFD(file)
    await reply
    await file.close()
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  const stream = session.request()
  let length = 0
  stream.on('data', (chunk: Buffer) => { length += chunk.length })
  await once(stream, 'close')
  t.equal(length, 4_000_000)
  t.equal(stream.rstCode, 0)
  session.destroy()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('HTTP/2: closing does not wait for an answered request whose handler has not ended at drainTimeout', async t => {
  const { app } = await createApp(t, { drainTimeout: 100 }, { http2: true } as object)
  // Held by this test: a handler that nothing can resume is garbage, and may be forgotten before the drain ends.
  const never = new Deferred()
  t.teardown(never.resolve)
  app.get('/', async (_request, reply) => {
    void reply.send('accepted')
    await never.promise
  })
  const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
  t.teardown(() => { session.destroy() })
  await once(session.request({ ':path': '/' }).resume(), 'close')
  const { cut, phases } = await app.gracefulShutdown.shutdown()
  t.match(cut, [{ route: '/' }])
  t.ok(phases.closing < 700, `closing took ${phases.closing}ms`)
})

t.test('inject: an answered request counts until its handler is done', async t => {
  const { app, log } = await createApp(t)
  const { done } = startWorker('an async handler', app)
  t.equal((await app.inject('/work')).statusCode, 202)
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  await Promise.race([log.line(/Waiting for 1 in-flight request /), report])
  t.equal(app.gracefulShutdown.phase, 'draining')
  done.resolve()
  t.match(await report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

class Subclass<T> extends Promise<T> {
  override then<A = T, B = never> (onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    return super.then(onFulfilled, onRejected)
  }
}

const thenables: Array<[name: string, create: () => PromiseLike<unknown>]> = [
  ['a query builder', () => Object.assign(new Query(async () => 'rows'), {
    finally (this: Query, done: () => void) { return Promise.resolve(this).finally(done) }
  })],
  ['a subclass of Promise', () => Subclass.resolve('rows')]
]

for (const [name, create] of thenables) {
  t.test(`other code may call the other methods of what a handler returns: ${name}`, async t => {
    const { app } = await createApp(t)
    let ended = 0
    app.addHook('onRoute', route => {
      const { handler } = route
      route.handler = function (request, reply) {
        const result = handler.call(this, request, reply) as Promise<unknown>
        return result.finally(() => { ended++ })
      }
    })
    app.get('/', () => create())
    const { statusCode, body } = await app.inject('/')
    t.strictSame({ statusCode, body, ended }, { statusCode: 200, body: 'rows', ended: 1 })
    await eventually(() => app.inFlightRequests === 0)
  })
}

/** What the handler of the request's route returns. A hook may call it, as Fastify does. */
function callHandler (request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const handler = request.routeOptions.handler as unknown as (...args: unknown[]) => Promise<unknown>
  return handler(request, reply)
}

t.test('code that calls the handler of a route itself may use what it gets more than once', async t => {
  const { app } = await createApp(t)
  const entered = new Deferred()
  const released = new Deferred()
  const direct = async (request: FastifyRequest, reply: FastifyReply) => {
    const result = callHandler(request, reply)
    t.equal(await result, await result.catch(() => 'failed'))
  }
  let calls = 0
  app.get('/', { preHandler: direct }, async (_request, reply) => {
    if (++calls === 1) return 'called by the hook'
    void reply.send('answer')
    entered.resolve()
    return await released.promise
  })
  await new RawClient(await listen(app)).get('/').until(/answer/)
  await entered.promise
  t.equal(app.inFlightRequests, 1, 'the handler is still running')
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

/** Adds a route that answers and works on. A hook calls its handler in Fastify's place. */
async function createCalling (
  t: Test, call: (handler: () => Promise<unknown>) => void
): Promise<{ app: FastifyInstance, work: Deferred<string> }> {
  const { app } = await createApp(t)
  const work = new Deferred<string>()
  app.get('/', {
    preHandler (request, reply) {
      call(() => callHandler(request, reply))
    }
  }, async (_request, reply) => {
    void reply.send('answer')
    return await work.promise
  })
  await new RawClient(await listen(app)).get('/').until(/answer/)
  return { app, work }
}

for (const outcome of ['fulfilled', 'rejected'] as const) {
  const settle = (work: Deferred<string>) => { if (outcome === 'fulfilled') work.resolve('done'); else work.reject(new Error('on purpose')) }

  t.test(`a handler whose caller drops its promise counts until that is ${outcome}`, async t => {
    const { app, work } = await createCalling(t, handler => { void handler() })
    const report = app.gracefulShutdown.shutdown()
    await new Promise(resolve => { setImmediate(resolve) })
    t.equal(app.gracefulShutdown.phase, 'draining')
    t.equal(app.inFlightRequests, 1)
    settle(work)
    t.match(await report, { completed: 1, cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })

  t.test(`code that calls a handler gets what can be used as its promise, before and after it is ${outcome}`, async t => {
    let result: Promise<unknown> | undefined
    const { app, work } = await createCalling(t, handler => { result = handler() })
    const promise = result as unknown as Promise<unknown>
    const seen: unknown[] = []
    let ends = 0
    const ended = promise.finally(() => { ends++ })
    const useAgain = async () => {
      seen.push(await promise.then(value => value, (error: Error) => error.message))
      seen.push(await Promise.allSettled([promise, ended]).then(results => results.map(({ status }) => status)))
      seen.push(await promise.catch(() => 'caught'))
    }
    const first = useAgain()
    settle(work)
    await first
    await useAgain()
    const uses = outcome === 'fulfilled' ? ['done', [outcome, outcome], 'done'] : ['on purpose', [outcome, outcome], 'caught']
    t.strictSame(seen, [...uses, ...uses])
    t.equal(ends, 1)
    await eventually(() => app.inFlightRequests === 0)
  })
}

t.test('a handler whose caller drops its promise, and which calls the not-found handler, counts until it is done', async t => {
  const { app } = await createApp(t)
  const work = new Deferred()
  app.get('/', {
    preHandler (request, reply) {
      void callHandler(request, reply)
    }
  }, async (_request, reply) => {
    reply.callNotFound()
    await work.promise
  })
  await new RawClient(await listen(app)).get('/').until(/Not Found/)
  t.equal(app.inFlightRequests, 1)
  work.resolve()
  await eventually(() => app.inFlightRequests === 0)
})

t.test('instances may share an error handler: each counts its own requests', async t => {
  const [{ app: owner }, { app }] = [await createApp(t), await createApp(t)]
  owner.setErrorHandler(async (_error, _request, reply) => {
    await reply.code(500).send('failed')
    await released.promise
  })
  app.setErrorHandler(owner.errorHandler)
  const [entered, failing, released] = [new Deferred(), new Deferred(), new Deferred()]
  app.get('/', async () => {
    entered.resolve()
    await failing.promise
    throw new Error('on purpose')
  })
  const port = await listen(app)
  const client = new RawClient(port).get('/')
  await entered.promise
  const leaving = await visit(app, port)
  leaving.client.get('/')
  await eventually(() => app.inFlightRequests === 2)
  await leaving.leave()
  failing.resolve()
  await client.until(/failed/)
  t.strictSame([owner.inFlightRequests, app.inFlightRequests], [0, 2])
  released.resolve()
  await eventually(() => app.inFlightRequests === 0)
  for (const { gracefulShutdown } of [owner, app]) {
    t.match(await gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  }
})

t.test('requests whose handlers return the same thenable, awaited by other code in the same turn, each count until their handlers are done', async t => {
  const { app } = await createApp(t)
  const shared = new Query(async () => undefined)
  const work = new Deferred()
  let working = 0
  app.setErrorHandler((_error, _request, reply) => {
    void reply.code(500).send('failed')
    return shared
  })
  await app.register(async child => {
    const { errorHandler } = app
    child.setErrorHandler(async (error, request, reply) => {
      const result: unknown = errorHandler.call(child, error as FastifyError, request, reply)
      await (result as Query)
      working++
      await work.promise
    })
    child.get('/', async () => { throw new Error('on purpose') })
  })
  const client = new RawClient(await listen(app)).send('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3))
  await client.until(/(?:failed[^]*){3}/)
  await eventually(() => working === 3)
  t.equal(app.inFlightRequests, 3)
  t.equal(shared.runs, 3)
  work.resolve()
  await eventually(() => app.inFlightRequests === 0)
  t.notOk(Object.hasOwn(shared, 'then'), 'its `then` is its own again')
})

for (const [what, make] of Object.entries({
  'a promise': (settle: () => unknown) => Promise.resolve().then(settle),
  'a query builder': (settle: () => unknown) => new Query(settle)
})) {
  t.test(`other code may call \`then\` of ${what} that a handler returns without callbacks, and repeatedly in the same turn`, async t => {
    const { app } = await createApp(t)
    const outcomes: unknown[] = []
    const preHandler = async (request: FastifyRequest, reply: FastifyReply) => {
      const result = callHandler(request, reply)
      const { then } = result // oxlint-disable-line unbound-method
      const settled = await Promise.allSettled([then.call(result, undefined), then.call(result, undefined)])
      outcomes.push(...settled.map(({ status }) => status))
    }
    app.get('/value', { preHandler }, () => make(() => 'value'))
    app.get('/error', { preHandler }, () => make(() => { throw new Error('on purpose') }))
    t.equal((await app.inject('/value')).body, 'value')
    t.equal((await app.inject('/error')).statusCode, 500)
    t.strictSame(outcomes, ['fulfilled', 'fulfilled', 'rejected', 'rejected'])
    await eventually(() => app.inFlightRequests === 0)
  })
}

/** A promise whose `then` throws, because it creates another one with an argument that is no executor. */
class Delay extends Promise<unknown> {
  constructor (ms: number) {
    super(resolve => { setTimeout(resolve, ms) })
  }
}

const faulty: Array<[what: string, create: () => unknown]> = [
  ['a proxy of a promise', () => new Proxy(Promise.resolve('rows'), {})],
  ['an object with the prototype of promises', () => Object.create(Promise.prototype)],
  ['a subclass of Promise with another constructor', () => new Delay(1)]
]

for (const [what, create] of faulty) {
  t.test(`${what}, whose \`then\` throws, is answered as with Fastify alone, and does not count any longer`, async t => {
    const { app } = await createApp(t)
    app.get('/', () => create())
    t.equal((await app.inject('/')).statusCode, 500)
    await eventually(() => app.inFlightRequests === 0)
  })
}

const uncalled = (): Query => new Query(() => { throw new Error('Other code has not called it') })
const shared = uncalled()
const dropped: Array<[what: string, create: () => unknown]> = [
  ...faulty,
  ['a query builder', uncalled],
  ['a thenable that is shared', () => shared]
]

for (const [what, create] of dropped) {
  t.test(`${what} that the caller of a handler drops does not count once the response has been sent`, async t => {
    const { app } = await createApp(t)
    let responses = 0
    app.addHook('onResponse', async () => { responses++ })
    app.get('/', {
      preHandler (request, reply) {
        void callHandler(request, reply)
      }
    }, (_request, reply) => {
      setTimeout(() => { void reply.send('answer') }, 5)
      return create()
    })
    const client = new RawClient(await listen(app)).get('/').get('/')
    await client.until(/(?:answer[^]*){2}/)
    await eventually(() => responses === 2 && app.inFlightRequests === 0)
    t.notOk(Object.hasOwn(shared, 'then'), 'its `then` is its own again')
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
  })
}

t.test('an error handler that calls that of its parent gets its promise', async t => {
  const { app } = await createApp(t)
  app.setErrorHandler(async () => 'of the parent')
  await app.register(async child => {
    const { errorHandler } = app
    child.setErrorHandler((error, request, reply) => {
      const result: unknown = errorHandler.call(child, error as FastifyError, request, reply)
      t.ok(types.isPromise(result))
      return result
    })
    child.get('/', async () => { throw new Error('on purpose') })
  })
  t.equal((await app.inject('/')).body, 'of the parent')
  await eventually(() => app.inFlightRequests === 0)
})

t.test('if code drops the promise of an error handler, and that rejects later, Node reports no unhandled rejection', async t => {
  const { app } = await createApp(t)
  const work = new Deferred()
  const unhandled: unknown[] = []
  const note = (reason: unknown) => { unhandled.push(reason) }
  process.on('unhandledRejection', note)
  t.teardown(() => { process.off('unhandledRejection', note) })
  app.setErrorHandler(async (_error, _request, reply) => {
    void reply.code(500).send('failed')
    await work.promise
  })
  await app.register(async child => {
    const { errorHandler } = app
    child.setErrorHandler((error, request, reply) => { errorHandler.call(child, error as FastifyError, request, reply) })
    child.get('/', async () => { throw new Error('on purpose') })
  })
  t.equal((await app.inject('/')).body, 'failed')
  t.equal(app.inFlightRequests, 1)
  work.reject(new Error('too late'))
  await eventually(() => app.inFlightRequests === 0)
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(unhandled, [])
})

const settleTwice = (fulfilled: Callback, rejected: Callback): void => {
  fulfilled('answer')
  rejected(new Error('too late'))
}

for (const [what, thenable] of [['thenable', {}], ['promise, which has its own `then`,', Promise.resolve()]] as const) {
  t.test(`after a handler whose ${what} settles twice, the drain still waits for async onResponse hooks`, async t => {
    const { app, log } = await createApp(t)
    const entered = new Deferred()
    const released = new Deferred()
    app.addHook('onResponse', async () => {
      entered.resolve()
      await released.promise
    })
    app.get('/', () => Object.assign(thenable, { then: settleTwice }))
    await new RawClient(await listen(app)).get('/').until(/answer/)
    await entered.promise
    const closed = app.close()
    await log.line(/^Waiting for 1 in-flight request to complete/)
    released.resolve()
    await closed
    t.match(await app.gracefulShutdown.wait(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('an error handler may return a frozen thenable', async t => {
  const { app } = await createApp(t)
  app.setErrorHandler(() => Object.freeze({ then: (callback: Callback) => { callback('frozen') } }))
  app.get('/', async () => { throw new Error('on purpose') })
  t.equal((await app.inject('/')).body, 'frozen')
  await eventually(() => app.inFlightRequests === 0)
})

t.test('a handler may return a thenable whose `then` cannot be read or replaced', async t => {
  const { app } = await createApp(t, { drainTimeout: 2_000 })
  app.get('/proxy', () => remote('remote').proxy)
  app.get('/getter', () => ({ get then () { throw new Error('on purpose') } }))
  app.get('/frozen', () => Object.freeze({ then: (callback: Callback) => { callback('frozen') } }))
  let reads = 0
  const failingOnce = {
    get then () {
      if (++reads === 2) throw new Error('on purpose')
      return (callback: Callback) => { callback('failing once') }
    }
  }
  app.get('/failing-once', () => failingOnce)
  t.equal((await app.inject('/failing-once')).body, 'failing once')
  t.equal((await app.inject('/getter')).statusCode, 500)
  t.equal((await app.inject('/frozen')).body, 'frozen')
  t.equal((await app.inject('/proxy')).body, 'remote')
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('handlers get as many arguments as from Fastify alone', async t => {
  const { app } = await createApp(t)
  const counts: number[] = []
  app.get('/', async (...args) => { counts.push(args.length) })
  app.get('/fails', async () => { throw new Error('failed') })
  app.setNotFoundHandler(async (...args) => { counts.push(args.length) })
  app.setErrorHandler(async (...args) => { counts.push(args.length) })
  for (const path of ['/', '/none', '/fails']) await app.inject(path)
  t.strictSame(counts, [2, 2, 3])
})

t.test('a handler keeps its name and properties for onRoute hooks that are added later', async t => {
  const { app } = await createApp(t)
  const seen: unknown[] = []
  app.addHook('onRoute', ({ handler }) => { seen.push([handler.name, handler.length, (handler as { span?: string }).span]) })
  const getUser = Object.assign(async function getUser () { return 'user' }, { span: 'get-user' })
  const postUser = function postUser (_request: unknown, reply: { send: (body: string) => void }) { reply.send('posted') }
  app.get('/', { exposeHeadRoute: false }, getUser)
  app.post('/', postUser)
  t.strictSame(seen, [['getUser', 0, 'get-user'], ['postUser', 2, undefined]])
  t.equal((await app.inject('/')).body, 'user')
})

t.test('fastify.errorHandler() may be called with mocks, as with Fastify alone', async t => {
  const { app } = await createApp(t)
  const seen: unknown[] = []
  app.setErrorHandler((error, _request, reply) => { seen.push(error, reply) })
  const reply = { code: () => reply }
  const error = new Error('of a unit test')
  app.errorHandler(error, {} as FastifyRequest, reply as unknown as FastifyReply)
  t.strictSame(seen, [error, reply])
})

t.test('a replaced method is restored, unless other code has replaced it since', async t => {
  const object = { emit: () => 'original' }
  const restore = replaceMethod(object, 'emit', () => 'first')
  object.emit = () => 'other'
  restore()
  t.equal(object.emit(), 'other')
  replaceMethod(object, 'emit', () => 'second')()
  t.equal(object.emit(), 'other')
})
