// Code that closes an instance does not wait for itself, and the steps of closing fit into the remaining time.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { GracefulOptions } from '../index.ts'
import { AsyncResource } from 'node:async_hooks'
import { EventEmitter, once } from 'node:events'
import { connect, constants } from 'node:http2'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createApp, Deferred, every, heldRoute, listen, phaseBegins, RawClient } from './helpers.ts'

type Close = (app: FastifyInstance) => Promise<unknown>

const closes: Array<[name: string, close: Close]> = [
  ['close()', async app => { await app.close() }],
  ['close(callback)', async app => { await new Promise<void>(resolve => { app.close(() => { resolve() }) }) }],
  ['close(callback) whose callback calls done', async app => {
    const close = app.close as unknown as (listener: (error: unknown, done: () => void) => void) => void
    await new Promise<void>(resolve => {
      close((_error, done) => {
        done()
        resolve()
      })
    })
  }],
  ['[Symbol.asyncDispose]()', async app => { await (app as unknown as AsyncDisposable)[Symbol.asyncDispose]() }],
  ['shutdown()', async app => await app.gracefulShutdown.shutdown()],
  ['wait()', async app => await app.gracefulShutdown.wait()]
]

const places: Array<[name: string, add: (app: FastifyInstance, run: () => Promise<unknown>) => void]> = [
  ['a callback', (app, run) => { app.registerShutdownCallback(run) }],
  ['an onClose hook', (app, run) => { app.addHook('onClose', async () => { await run() }) }],
  ['an onClose hook that calls done', (app, run) => { app.addHook('onClose', (_app, done) => { run().then(() => { done() }, done) }) }],
  ['an onClose hook of a child', (app, run) => {
    void app.register(async child => { child.addHook('onClose', async () => { await run() }) })
  }],
  ['a preClose hook', (app, run) => { app.addHook('preClose', async () => { await run() }) }],
  ['a preClose hook that calls done', (app, run) => { app.addHook('preClose', done => { run().then(() => { done() }, done) }) }]
]

const QUICK = { shutdownTimeout: 8_000, drainTimeout: 4_000 }

/** An instance with a callback and a hook that record their runs. */
async function createWatched (t: Test, options: GracefulOptions = QUICK): Promise<{ app: FastifyInstance, ran: string[] }> {
  const { app } = await createApp(t, options)
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  app.registerShutdownCallback(() => { ran.push('callback') })
  return { app, ran }
}

async function isClean (t: Test, app: FastifyInstance, ran: string[], limit = 1_500): Promise<void> {
  const { errors, callbacks, exitCode, time } = await app.gracefulShutdown.wait()
  t.strictSame(errors, [])
  t.ok(callbacks.every(({ error }) => error === undefined))
  t.equal(exitCode, 0)
  t.strictSame(ran, ['onClose', 'callback'])
  t.ok(time < limit, `took ${time}ms`)
}

for (const [closeName, close] of closes) {
  for (const [place, add] of places) {
    t.test(`${closeName} awaited in ${place} does not wait for itself`, async t => {
      const { app, ran } = await createWatched(t)
      let awaited = 0
      add(app, async () => {
        await close(app)
        awaited++
      })
      await listen(app)
      await app.close()
      t.equal(awaited, 1)
      await isClean(t, app, ran)
    })
  }

  t.test(`${closeName} in a listener of an object that is older does not wait for itself if AsyncResource.bind() wraps the listener`, async t => {
    const { app, ran } = await createWatched(t)
    const older = new EventEmitter()
    // Its timer has no context of the shutdown.
    const timer = setInterval(() => { older.emit('event') }, 5)
    t.teardown(() => { clearInterval(timer) })
    app.addHook('onClose', async () => {
      const { promise, resolve } = new Deferred()
      older.once('event', AsyncResource.bind(() => { void close(app).then(() => { resolve() }) }))
      await promise
    })
    await listen(app)
    await app.close()
    await isClean(t, app, ran)
  })

  t.test(`${closeName} awaited in callbacks and hooks of another instance: each closes the other, and neither waits for itself`, async t => {
    for (const start of ['one', 'both']) {
      const { app: first, ran: ranFirst } = await createWatched(t)
      const { app: second, ran: ranSecond } = await createWatched(t)
      for (const [app, other] of [[first, second], [second, first]] as const) {
        app.addHook('onClose', async () => { await close(other) })
        app.registerShutdownCallback(async () => { await close(other) })
        await listen(app)
      }
      if (closeName === 'wait()' || start === 'both') await Promise.all([first.close(), second.close()])
      else await first.close()
      await isClean(t, first, ranFirst)
      await isClean(t, second, ranSecond)
    }
  })

  t.test(`${closeName} of the next instance, awaited in a callback of each in a ring of three, does not wait forever`, async t => {
    const apps = [await createWatched(t), await createWatched(t), await createWatched(t)] as const
    for (const [index, { app }] of apps.entries()) {
      app.registerShutdownCallback(async () => { await close((apps[(index + 1) % 3] as typeof apps[0]).app) })
    }
    await Promise.all(apps.map(async ({ app }) => { await app.close() }))
    for (const { app, ran } of apps) await isClean(t, app, ran)
  })
}

for (const place of ['a handler', 'an onResponse hook']) {
  t.test(`close() awaited in ${place} waits for its own request until drainTimeout, and the report names that request`, async t => {
    const { app } = await createApp(t, { drainTimeout: 200 })
    const isHandler = place === 'a handler'
    app.get('/', async () => {
      if (isHandler) await app.close()
      return 'answer'
    })
    if (!isHandler) app.addHook('onResponse', async () => { await app.close() })
    const client = new RawClient(await listen(app)).get('/')
    const { phases, cut, exitCode } = await app.gracefulShutdown.wait()
    await client.closed
    t.equal(client.text.includes('answer'), !isHandler)
    t.ok(phases.draining >= 199, `drained for ${phases.draining} ms`)
    t.match(cut, [{ kind: 'request', method: 'GET', url: '/' }])
    t.equal(exitCode, 1)
  })
}

t.test('a callback that shuts down another instance gets its whole report', async t => {
  const { app: first } = await createApp(t)
  const { app: second } = await createApp(t)
  second.registerShutdownCallback(async function closeDatabase () { await sleep(20) })
  const reports: unknown[] = []
  first.registerShutdownCallback(async () => { reports.push(await second.gracefulShutdown.shutdown()) })
  await listen(first)
  await listen(second)
  await first.close()
  t.match(reports, [{ exitCode: 0, callbacks: [{ name: 'closeDatabase' }] }])
})

t.test('close() called outside of callbacks and hooks waits for all of them, also while they close instances', async t => {
  const { app, ran } = await createWatched(t)
  app.addHook('onClose', async () => { await app.close() })
  const released = new Deferred()
  app.registerShutdownCallback(async () => {
    await app.close()
    await released.promise
    ran.push('last')
  })
  const first = app.close()
  const second = app.gracefulShutdown.shutdown()
  setTimeout(() => { released.resolve() }, 50)
  await Promise.race([first, second])
  t.strictSame(ran, ['onClose', 'callback', 'last'])
  await Promise.all([first, second])
})

for (const [place, add] of places.slice(0, 2)) {
  t.test(`work that ${place} tracks a turn after it has ended is waited for`, async t => {
    const { app } = await createApp(t)
    let isDone = false
    const work = async () => {
      await sleep(50)
      isDone = true
    }
    add(app, async () => { setImmediate(() => { void app.gracefulShutdown.track(work(), 'late') }) })
    await listen(app)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
    t.ok(isDone)
    t.strictSame(app.gracefulShutdown.inFlight(), [])
  })
}

t.test('a callback that awaits the report gets the report so far', async t => {
  const { app } = await createApp(t)
  app.registerShutdownCallback(async () => {
    const { reason, callbacks, exitCode } = await app.gracefulShutdown.wait()
    t.strictSame({ reason, callbacks, exitCode }, { reason: 'deploy', callbacks: [], exitCode: 0 })
    throw new Error('on purpose')
  }, { name: 'first' })
  app.registerShutdownCallback(async () => {
    t.match(await app.gracefulShutdown.wait(), { callbacks: [{ name: 'first', error: Error }], exitCode: 1 })
  })
  t.match(await app.gracefulShutdown.shutdown('deploy'), { callbacks: [{ name: 'first' }, { error: undefined }], exitCode: 1 })
})

for (const state of ['not ready', 'getting ready', 'listening']) {
  t.test(`close(), saved before the plugin is loaded, waits for the callbacks (${state})`, async t => {
    const app = Fastify()
    const ran: string[] = []
    void app.register(gracefulPlugin).after(() => {
      app.addHook('onClose', async () => { ran.push('onClose') })
      app.registerShutdownCallback(async () => {
        await sleep(50)
        ran.push('callback')
      })
    })
    if (state === 'getting ready') void app.ready()
    if (state === 'listening') void app.listen({ port: 0, host: '127.0.0.1' })
    await app.close()
    t.strictSame(ran, ['onClose', 'callback'])
    t.equal(app.gracefulShutdown.phase, 'closed')
  })
}

t.test("Fastify's own close(), called during a shutdown, waits for the callbacks", async t => {
  const app = Fastify()
  const close = app.close.bind(app)
  await app.register(gracefulPlugin)
  const ran: string[] = []
  app.registerShutdownCallback(async () => {
    await sleep(50)
    ran.push('callback')
  })
  await listen(app)
  const report = app.gracefulShutdown.shutdown()
  await close()
  t.strictSame(ran, ['callback'])
  t.match(await report, { exitCode: 0 })
})

t.test('a listener of the shutdown may skip the delay at once', async t => {
  const { app } = await createApp(t, { shutdownDelay: 4_000, drainTimeout: 1_000 })
  await listen(app)
  app.gracefulShutdown.signal.addEventListener('abort', () => { app.gracefulShutdown.skipDelay() })
  const { phases } = await app.gracefulShutdown.shutdown()
  t.ok(phases.delaying < 2_000, `${phases.delaying} ms`)
})

t.test('an instance whose registration failed closes, also in its own hooks', async t => {
  const app = Fastify()
  let awaited = 0
  app.addHook('onClose', async () => { awaited++ })
  await t.rejects(async () => { await app.register(gracefulPlugin, { drainTimeout: -1 }) })
  await app.close().catch(() => {})
  t.equal(awaited, 1)
})

for (const [shutdownTimeout, drainTimeout, callback] of [
  [4_000, 2_800, true], [4_000, 2_800, false], [2_000, 1_400, true], [2_000, 1_400, false]
] as const) {
  const callbacks = callback ? 'with' : 'without'
  t.test(`closing fits into the remaining time if nothing is cut (${shutdownTimeout} ms in all, ${callbacks} callbacks)`, async t => {
    const { app } = await createApp(t, { shutdownTimeout, drainTimeout })
    const ran: string[] = []
    app.get('/slow', async () => {
      await sleep(drainTimeout - 100)
      return 'ok'
    })
    app.addContentTypeParser('application/octet-stream', (_request, payload, done) => { payload.resume().on('end', () => { done(null) }) })
    app.post('/upload', async () => 'uploaded')
    app.addHook('onClose', async () => { ran.push('onClose') })
    if (callback) app.registerShutdownCallback(() => { ran.push('callback') })
    const port = await listen(app)
    const idle = new RawClient(port).get('/')
    await idle.until(/404 /)
    const entered = new Promise(resolve => { app.server.once('request', resolve) })
    const slow = new RawClient(port).get('/slow')
    await entered
    const lag = monitorEventLoopDelay({ resolution: 10 })
    lag.enable()
    const report = app.gracefulShutdown.shutdown()
    const clients = [idle]
    // Clients that keep connecting, clients that send nothing, and slow uploads.
    const stops = [
      every(t, 20, () => { clients.push(new RawClient(port).get('/', ['Connection: close'])) }),
      every(t, 100, () => { clients.push(new RawClient(port)) })
    ]
    await sleep(drainTimeout - 400)
    const upload = new RawClient(port).send('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n')
    clients.push(upload)
    stops.push(every(t, 20, () => { upload.send('x'.repeat(100)) }))
    const { cut, errors, exitCode, time } = await report
    for (const stop of stops) stop()
    for (const { socket } of clients) socket.destroy()
    await slow.closed
    t.match(slow.text, /200 OK[^]*ok$/)
    t.strictSame(ran, callback ? ['onClose', 'callback'] : ['onClose'])
    t.strictSame({ cut, errors, exitCode }, { cut: [], errors: [], exitCode: 0 })
    // The machine may stop the process for a time.
    const late = lag.max / 1e6
    t.ok(time < shutdownTimeout + late, `took ${time}ms, the event loop was up to ${late}ms late`)
  })
}

for (const [where, add] of [
  ['onClose', (app: FastifyInstance, work: () => Promise<void>) => { app.addHook('onClose', work) }],
  ['preClose', (app: FastifyInstance, work: () => Promise<void>) => { app.addHook('preClose', work) }]
] as const) {
  t.test(`without callbacks, ${where} hooks have all of the remaining time`, async t => {
    const { app } = await createApp(t, { shutdownTimeout: 2_000, drainTimeout: 400 })
    let isDone = false
    add(app, async () => {
      await sleep(1_200)
      isDone = true
    })
    await listen(app)
    const { errors, exitCode } = await app.gracefulShutdown.shutdown()
    t.ok(isDone)
    t.strictSame({ errors, exitCode }, { errors: [], exitCode: 0 })
  })
}

t.test('an onClose hook that takes long leaves callbacks their time', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 4_000, drainTimeout: 400 })
  const ran: string[] = []
  app.addHook('onClose', async () => {
    await sleep(1_200)
    ran.push('onClose')
  })
  app.registerShutdownCallback(async () => {
    await sleep(400)
    ran.push('callback')
  })
  await listen(app)
  t.match(await app.gracefulShutdown.shutdown(), { errors: { length: 0 }, exitCode: 0 })
  t.strictSame(ran, ['onClose', 'callback'])
})

t.test('requests that arrive while connections are being closed get their 503, even if little time is left', async t => {
  // Less than a second: each second of the drain, sessions that have opened since also get GOAWAY.
  const { app } = await createApp(t, { drainTimeout: 700, shutdownTimeout: 1_500 }, { http2: true } as object)
  const { entered, release } = heldRoute(app)
  const port = await listen(app)
  const session = connect(`http://127.0.0.1:${port}`)
  t.teardown(() => { session.destroy() })
  session.request({ ':path': '/held' }).on('error', () => {})
  await entered
  const report = app.gracefulShutdown.shutdown()
  // A session that opens before that also gets GOAWAY.
  await once(session, 'goaway')
  const late = connect(`http://127.0.0.1:${port}`)
  t.teardown(() => { late.destroy() })
  await once(late, 'remoteSettings')
  await phaseBegins(app, 'closing')
  const stream = late.request({ ':path': '/held' })
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  t.equal(headers[':status'], 503)
  t.match(JSON.parse(await text(stream)), { code: 'FST_ERR_GRACEFUL_SHUTTING_DOWN' })
  if (!stream.closed) await once(stream, 'close')
  t.equal(stream.rstCode, constants.NGHTTP2_NO_ERROR)
  release()
  t.match(await report, { refused: 1, exitCode: 1 })
})
