// preClose hooks run once, as draining starts, in the same way as in Fastify, while the drain continues.

import t from 'tap'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import type { ServerResponse } from 'node:http'
import type { Test } from 'tap'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import httpProxy from '@fastify/http-proxy'
import sse from '@fastify/sse'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import { Server as SocketServer } from 'socket.io'
import { io as connectSocket } from 'socket.io-client'
import { WebSocket } from 'undici'
import gracefulPlugin from '../index.ts'
import { wholeTurn } from '../lib/clock.ts'
import { createApp, Deferred, eventually, heldRoute, listen, Log, RawClient } from './helpers.ts'

/** Adds hooks in several contexts, in all forms. They record their names if `this` is their own instance. */
async function addHooks (app: FastifyInstance, ran: string[]): Promise<void> {
  const add = (name: string, instance: FastifyInstance, form: 'callback' | 'async' | 'sync') => {
    const note = (context: unknown) => { ran.push(context === instance ? name : `${name} of another instance`) }
    if (form === 'callback') instance.addHook('preClose', function (done) { setImmediate(() => { note(this); done() }) })
    else if (form === 'async') instance.addHook('preClose', async function () { await sleep(5); note(this) })
    else instance.addHook('preClose', function (this: FastifyInstance) { note(this) } as () => Promise<void>)
  }
  add('root 1', app, 'callback')
  await app.register(async child => {
    add('child 1', child, 'async')
    void child.register(async grandchild => { add('grandchild', grandchild, 'sync') })
    add('child 2', child, 'callback')
  })
  await app.register(async child => { add('sibling', child, 'async') })
  await app.register(Object.assign(async (same: FastifyInstance) => { add('root 2', same, 'sync') }, { [Symbol.for('skip-override')]: true }))
  add('root 3', app, 'async')
}

t.test("each hook runs once, in each context, in Fastify's order and with Fastify's `this`, in each form", async t => {
  const bare = Fastify()
  const expected: string[] = []
  await addHooks(bare, expected)
  await bare.listen({ port: 0, host: '127.0.0.1' })
  await bare.close()
  t.equal(expected.length, 7)

  const { app } = await createApp(t)
  const ran: string[] = []
  await addHooks(app, ran)
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await eventually(() => ran.length === expected.length)
  t.equal(app.gracefulShutdown.phase, 'draining')
  held.release()
  t.match(await report, { completed: 1, errors: { length: 0 }, exitCode: 0 })
  await client.closed
  t.strictSame(ran, expected)
})

interface Starting {
  /** Whether a plugin loads; else an onReady hook runs. */
  isLoading: boolean
  starts: (app: FastifyInstance) => PromiseLike<unknown>
  end: (app: FastifyInstance) => Promise<unknown>
}

/** Ends an instance that is about to be ready, and returns what has run, in order. */
async function endWhileStarting (t: Test, app: FastifyInstance, { isLoading, starts, end }: Starting): Promise<string[]> {
  const ran: string[] = []
  const [starting, mayGoOn] = [new Deferred(), new Deferred()]
  const start = async () => {
    starting.resolve()
    await mayGoOn.promise
    ran.push('started')
  }
  const addAll = (name: string, instance: FastifyInstance) => {
    instance.addHook('preClose', async () => { ran.push(`preClose ${name}`) })
    instance.addHook('onClose', async () => { ran.push(`onClose ${name}`) })
  }
  addAll('root', app)
  if (!isLoading) app.addHook('onReady', start)
  void app.register(async child => {
    if (isLoading) await start()
    child.addHook('onReady', async () => {
      for (let turns = 0; turns < 3; turns++) await wholeTurn()
      ran.push('ready')
    })
    addAll('child', child)
  })
  const started = starts(app)
  await starting.promise
  const ended = end(app)
  for (let turns = 0; turns < 3; turns++) await wholeTurn()
  t.strictSame(ran, [])
  mayGoOn.resolve()
  await started
  await ended
  return ran
}

for (const isLoading of [false, true]) {
  for (const [what, starts] of Object.entries<(app: FastifyInstance) => PromiseLike<unknown>>({
    'ready()': app => app.ready(),
    'listen()': async app => { await app.listen({ port: 0, host: '127.0.0.1' }) }
  })) {
    const where = isLoading ? 'a plugin loads' : 'an onReady hook runs'
    t.test(`after ${what}, while ${where}, close() and shutdown() run hooks once the instance is ready, as Fastify alone`, async t => {
      const close = async (app: FastifyInstance) => { await app.close() }
      const alone = Fastify()
      // It may still listen.
      t.teardown(() => { alone.server.close() })
      const expected = await endWhileStarting(t, alone, { isLoading, starts, end: close })
      t.strictSame(expected, ['started', 'ready', 'preClose root', 'preClose child', 'onClose child', 'onClose root'])
      const shutDown = async (app: FastifyInstance) => { t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 }) }
      for (const end of [close, shutDown]) {
        const { app } = await createApp(t)
        t.strictSame(await endWhileStarting(t, app, { isLoading, starts, end }), expected)
      }
    })
  }
}

t.test('a hook that hangs while the instance starts keeps no onClose hook from running', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 1_000 })
  app.addHook('preClose', async function hang () { await new Promise(() => {}) })
  const error = /the preClose hook "hang"/
  const ran = await endWhileStarting(t, app, {
    isLoading: false,
    starts: () => app.ready(),
    end: async () => { t.match(await app.gracefulShutdown.shutdown(), { errors: [error], exitCode: 1 }) }
  })
  t.strictSame(ran, ['started', 'ready', 'preClose root', 'preClose child', 'onClose child', 'onClose root'])
})

t.test('hooks run after the shutdownDelay, while the listener still accepts connections, and the drain waits for them', async t => {
  const { app } = await createApp(t, { shutdownDelay: 100 })
  const seen: string[] = []
  const port = await listen(await hookedApp(app, async () => {
    seen.push(app.gracefulShutdown.phase)
    const client = new RawClient(port).get('/')
    await client.closed
    seen.push(client.text.slice(9, 12))
    await sleep(200)
    seen.push(app.gracefulShutdown.phase)
  }))
  const { phases, exitCode } = await app.gracefulShutdown.shutdown()
  t.strictSame(seen, ['draining', '503', 'draining'])
  t.ok(phases.draining >= 199, `drained for ${phases.draining}ms`)
  t.equal(exitCode, 0)
})

async function hookedApp (app: FastifyInstance, hook: () => Promise<void>): Promise<FastifyInstance> {
  app.addHook('preClose', hook)
  return app
}

t.test('the log says that the drain waits for preClose hooks', async t => {
  const { app, log } = await createApp(t)
  const released = new Deferred()
  app.addHook('preClose', async () => { await released.promise })
  await listen(app)
  const closed = app.close()
  await log.line(/^Waiting for the preClose hooks to complete/)
  released.resolve()
  await closed
})

t.test('a hook that fails is logged and reported, the others run, and close() rejects as with Fastify alone', async t => {
  const log = new Log()
  const app = Fastify({ logger: { stream: { write: line => { log.write(line) } } } }) as FastifyInstance
  await app.register(gracefulPlugin)
  const ran: string[] = []
  app.addHook('preClose', async () => { throw new Error('first') })
  app.addHook('preClose', done => { done(new Error('second')) })
  app.addHook('preClose', () => { throw 'third' }) // oxlint-disable-line no-throw-literal
  app.addHook('preClose', async () => { ran.push('last') })
  app.registerShutdownCallback(() => { ran.push('callback') })
  await listen(app)
  await t.rejects(app.close(), { message: 'first' })
  t.strictSame(ran, ['last', 'callback'])
  const { errors, exitCode } = await app.gracefulShutdown.wait()
  t.strictSame(errors.map(({ message }) => message), ['first', 'second', "Not an error: 'third' (string)"])
  t.equal(exitCode, 1)
  t.equal(log.messages(/^The (?:anonymous )?preClose hook .*failed/).length, 3)
})

t.test('a hook that hangs does not delay the shutdown beyond its time', async t => {
  const app = Fastify() as FastifyInstance
  await app.register(gracefulPlugin, { shutdownTimeout: 1_000, drainTimeout: 300 })
  app.addHook('preClose', async () => { await new Promise(() => {}) })
  await listen(app)
  const { errors, time } = await app.gracefulShutdown.shutdown()
  t.match(errors, [{ code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' }])
  t.ok(time < 1_500, `took ${time}ms`)
})

/** How other code ends the instance; the last gets Fastify's own close(), read before the plugin was loaded. */
const ends: Record<string, (app: FastifyInstance, close: () => Promise<void>) => Promise<unknown>> = {
  'shutdown()': async app => await app.gracefulShutdown.shutdown(),
  'close()': async app => { await app.close() },
  "Fastify's own close()": async (_app, close) => { await close() }
}

/** Where the hook is that fails. */
const places: Record<string, (app: FastifyInstance, hook: () => Promise<void>) => void> = {
  'in the same context': (app, hook) => { app.addHook('preClose', hook) },
  'in a child context': (app, hook) => { void app.register(async child => { child.addHook('preClose', hook) }) },
  'before the plugin': () => {}
}

for (const [how, end] of Object.entries(ends)) {
  for (const [where, add] of Object.entries(places)) {
    for (const drainTimeout of [0, 50]) {
      t.test(`${how}: beside a hook that fails, added ${where}, the others are waited for after drainTimeout ${drainTimeout}`, async t => {
        const app = Fastify({ logger: { stream: { write: () => {} } } }) as FastifyInstance
        const close = app.close.bind(app) as () => Promise<void>
        const fails = async () => { throw new Error('broken') }
        if (where === 'before the plugin') app.addHook('preClose', fails)
        await app.register(gracefulPlugin, { drainTimeout, shutdownTimeout: 5_000 })
        const ran: string[] = []
        app.addHook('onClose', async () => { ran.push('onClose') })
        const slow = async (name: string) => {
          await sleep(150)
          ran.push(name)
        }
        app.addHook('preClose', async () => { await slow('root') })
        add(app, fails)
        void app.register(async child => {
          child.addHook('preClose', done => { void slow('child').then(() => { done() }) })
          child.addHook('preClose', async () => {
            await slow('late')
            throw new Error('late')
          })
        })
        await listen(app)
        await end(app, close).catch(() => {})
        const { errors } = await app.gracefulShutdown.wait()
        t.strictSame(ran, ['root', 'child', 'late', 'onClose'])
        // Of a hook that the plugin has not seen, only the caller of Fastify's own close() gets the error.
        const isUnseen = where === 'before the plugin' && how === "Fastify's own close()"
        t.strictSame(errors.map(({ message }) => message).toSorted(), isUnseen ? ['late'] : ['broken', 'late'])
      })
    }
  }
}

t.test('beside a hook that fails, hooks that hang are not waited for any longer, and are named, also those that start then', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 50, shutdownTimeout: 1_000 })
  const ran: string[] = []
  app.addHook('preClose', async () => { throw new Error('broken') })
  app.addHook('preClose', function endStreams (_done) {})
  app.addHook('preClose', async () => { ran.push('preClose') })
  app.addHook('preClose', async function endSockets () { await new Promise(() => {}) })
  app.addHook('onClose', async () => { ran.push('onClose') })
  await listen(app)
  await t.rejects(app.close(), { message: 'broken' })
  const { errors, time } = await app.gracefulShutdown.wait()
  t.strictSame(ran, ['preClose', 'onClose'])
  const named = /^Closing did not end within \d+ ms: it still waits for the preClose hook "endStreams" and the preClose hook "endSockets"$/
  t.match(errors.map(({ message }) => message), ['broken', named])
  t.equal(errors.length, 2)
  t.match(await log.line(/^A preClose hook is not waited for/), { err: { message: named } })
  t.ok(time < 1_500, `took ${time}ms`)
})

t.test('a hook that is added late, and hangs, is not waited for any longer', async t => {
  const { app } = await createApp(t, { drainTimeout: 50, shutdownTimeout: 1_000 })
  const ran: string[] = []
  void app.register(async child => {
    await sleep(100)
    child.addHook('preClose', async function endStreams () { await new Promise(() => {}) })
    child.addHook('onClose', async () => { ran.push('onClose') })
  })
  const { errors } = await app.gracefulShutdown.shutdown()
  t.strictSame(ran, ['onClose'])
  t.match(errors, [{ message: /: it still waits for the preClose hook "endStreams" of plugin "[^"]+"$/ }])
})

t.test('a hook added after the shutdown has started runs when Fastify closes', async t => {
  const app = Fastify()
  await app.register(gracefulPlugin)
  let ran = 0
  void app.register(async child => {
    await sleep(50)
    child.addHook('preClose', async () => { ran++ })
  })
  await app.close()
  t.equal(ran, 1)
})

t.test('hooks added before the plugin run when Fastify closes', async t => {
  const app = Fastify() as FastifyInstance
  const ran: string[] = []
  app.addHook('preClose', async () => { ran.push(app.gracefulShutdown.phase) })
  await app.register(gracefulPlugin)
  await listen(app)
  await app.close()
  t.strictSame(ran, ['closing'])
})

t.test('an invalid hook gets the error of Fastify and does not run', async t => {
  const { app } = await createApp(t)
  let ran = 0
  const bare = Fastify() as FastifyInstance
  for (const wrong of [undefined, null, 'x', async (_a: unknown, _b: unknown, _c: unknown) => { ran++ }]) {
    const message = (instance: FastifyInstance) => {
      try {
        instance.addHook('preClose', wrong as () => Promise<void>)
      } catch (error) {
        return (error as Error).message
      }
      return 'none'
    }
    t.not(message(bare), 'none')
    t.equal(message(app), message(bare))
  }
  await app.close()
  t.equal(ran, 0)
})

t.test('a hook added through a proxy of the instance runs', async t => {
  const { app } = await createApp(t)
  const phases: string[] = []
  new Proxy(app, {}).addHook('preClose', async () => { phases.push(app.gracefulShutdown.phase) })
  await listen(app)
  await app.close()
  t.strictSame(phases, ['draining'])
})

t.test('a hook may close the listener and wait for the end of its connections, including idle ones', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  app.addHook('preClose', done => { app.server.close(() => { done() }) })
  const idle = new RawClient(await listen(app)).get('/')
  await idle.until(/served/)
  const { exitCode, errors, time } = await app.gracefulShutdown.shutdown()
  await idle.closed
  t.strictSame({ exitCode, errors }, { exitCode: 0, errors: [] })
  t.ok(time < 2_000, `took ${time}ms`)
})

/** Opens an event stream, closes the instance, and returns the milliseconds until the client has read the last event. */
async function closeStream (app: FastifyInstance): Promise<number> {
  const client = new RawClient(await listen(app)).get('/events', ['Accept: text/event-stream'])
  await client.until(/hello/)
  const start = performance.now()
  const closed = app.close()
  await client.until(/bye"?\n\n/)
  const time = performance.now() - start
  // Fastify alone leaves some of these connections open until keepAliveTimeout.
  client.socket.destroy()
  await closed
  return time
}

const streams: Array<[name: string, add: (app: FastifyInstance) => Promise<void>]> = [
  ['a plain event stream', async app => {
    const open = new Set<ServerResponse>()
    app.get('/events', (_request, reply) => {
      reply.hijack()
      reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: hello\n\n')
      open.add(reply.raw)
    })
    app.addHook('preClose', async () => { for (const response of open) response.end('data: bye\n\n') })
  }],
  ['@fastify/sse', async app => {
    await app.register(sse as unknown as FastifyPluginAsync)
    const open = new Set<() => Promise<void>>()
    app.get('/events', { sse: true }, async (_request, reply) => {
      reply.sse.keepAlive()
      await reply.sse.send({ data: 'hello' })
      open.add(async () => {
        await reply.sse.send({ data: 'bye' })
        reply.sse.close()
      })
    })
    app.addHook('preClose', async () => { for (const end of open) await end() })
  }],
  ['a stream that a hook aborts a little later, as in @connectrpc/connect-fastify', async app => {
    const controller = new AbortController()
    app.addHook('preClose', done => {
      setTimeout(() => { controller.abort() }, 20)
      done()
    })
    app.get('/events', async (_request, reply) => {
      async function * events () {
        yield 'data: hello\n\n'
        await once(controller.signal, 'abort')
        yield 'data: bye\n\n'
      }
      return await reply.type('text/event-stream').send(Readable.from(events()))
    })
  }]
]

for (const [name, add] of streams) {
  t.test(`${name} ends with its last event, about as soon as with Fastify alone`, async t => {
    const bare = Fastify() as FastifyInstance
    await add(bare)
    const alone = await closeStream(bare)
    const { app } = await createApp(t)
    await add(app)
    const time = await closeStream(app)
    t.ok(time < alone + 250, `took ${time}ms, Fastify alone ${alone}ms`)
    t.match(await app.gracefulShutdown.wait(), { cut: { length: 0 }, errors: { length: 0 }, completed: 1, exitCode: 0 })
  })
}

t.test('socket.io, whose close() in preClose waits for the HTTP server, beside a WebSocket through @fastify/http-proxy, delays nothing', async t => {
  const { app: upstream } = await createApp(t)
  await upstream.register(websocket)
  upstream.get('/ws', { websocket: true }, socket => { socket.send('hello') })
  const { app } = await createApp(t)
  await app.register(httpProxy, { upstream: `http://127.0.0.1:${await listen(upstream)}`, websocket: true })
  const io = new SocketServer(app.server)
  app.addHook('preClose', async () => { await io.close() })
  const client = new WebSocket(`ws://127.0.0.1:${await listen(app)}/ws`)
  await once(client as unknown as EventTarget, 'message')
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
})

for (const where of ['preClose', 'onClose'] as const) {
  t.test(`socket.io, whose close() in ${where} also closes the HTTP server, disconnects its clients, and nothing fails`, async t => {
    const { app } = await createApp(t)
    const io = new SocketServer(app.server)
    if (where === 'preClose') app.addHook('preClose', async () => { await io.close() })
    else app.addHook('onClose', async () => { await io.close() })
    app.get('/', async () => 'served')
    const held = heldRoute(app)
    const ran: string[] = []
    app.addHook('onClose', async () => { ran.push('onClose') })
    app.registerShutdownCallback(() => { ran.push('callback') })
    const port = await listen(app)
    const idle = new RawClient(port).get('/')
    await idle.until(/served/)
    const busy = new RawClient(port).get('/held')
    await held.entered
    const client = connectSocket(`http://127.0.0.1:${port}`, { reconnection: false, transports: ['websocket'] })
    t.teardown(() => { client.close() })
    await once(client as unknown as NodeJS.EventEmitter, 'connect')
    const gone = once(client as unknown as NodeJS.EventEmitter, 'disconnect')
    const report = app.gracefulShutdown.shutdown()
    if (where === 'preClose') await gone
    held.release()
    await Promise.all([gone, idle.closed, busy.closed])
    t.match(busy.text, /200 OK[^]*\{"held":true\}$/)
    const { errors, completed, exitCode, time } = await report
    t.strictSame({ errors, completed, exitCode }, { errors: [], completed: 1, exitCode: 0 })
    t.strictSame(ran, ['onClose', 'callback'])
    t.ok(time < 3_000, `took ${time}ms`)
  })
}
