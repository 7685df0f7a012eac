// onClose hooks: they wait for the drain, may wait for the shutdown, and are named if they fail or hang, whatever closes Fastify.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { createHook } from 'node:async_hooks'
import { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createApp, listen, Log } from './helpers.ts'

interface Kept {
  app: FastifyInstance
  log: Log
  /** Fastify's own close, read before the plugin was loaded. */
  close: () => Promise<void>
}

async function createKept (options = {}): Promise<Kept> {
  const log = new Log()
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { log.write(chunk.toString()); done() } })
  const app = Fastify({ logger: { stream } }) as FastifyInstance
  const close = app.close.bind(app) as () => Promise<void>
  await app.register(gracefulPlugin, options)
  return { app, log, close }
}

const waits: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  'wait()': async app => await app.gracefulShutdown.wait(),
  'shutdown()': async app => await app.gracefulShutdown.shutdown(),
  'close()': async app => { await app.close() }
}

for (const [name, wait] of Object.entries(waits)) {
  for (const state of ['that listens', 'that never became ready']) {
    t.test(`with a saved close() of an instance ${state}, onClose hooks that await ${name} do not wait for themselves`, async t => {
      const { app, close } = await createKept()
      const ran: string[] = []
      app.addHook('onClose', async () => {
        await wait(app)
        ran.push(`async, ${app.gracefulShutdown.phase}`)
      })
      app.addHook('onClose', (_instance, done) => {
        void wait(app).then(() => {
          ran.push(`callback, ${app.gracefulShutdown.phase}`)
          done()
        })
      })
      app.registerShutdownCallback(() => { ran.push('cleanup') })
      if (state === 'that listens') await listen(app)
      await close()
      t.strictSame(ran, ['callback, closing', 'async, closing', 'cleanup'])
      const { errors, exitCode, time } = await app.gracefulShutdown.wait()
      t.strictSame({ errors, exitCode }, { errors: [], exitCode: 0 })
      t.ok(time < 2_000, `took ${time}ms`)
    })
  }
}

for (const closer of ['kept', 'own'] as const) {
  t.test(`errors of onClose hooks are logged with their names and reported, if Fastify is closed by its ${closer} close()`, async t => {
    const { app, log, close } = await createKept()
    app.addHook('onClose', async function closePool () { throw new Error('pool') })
    app.register(async function cache (child) {
      child.addHook('onClose', (_instance, done: (error?: Error) => void) => { done(new Error('cache')) })
    })
    app.addHook('onClose', () => { throw 'text' }) // oxlint-disable-line no-throw-literal
    await listen(app)
    await t.rejects(closer === 'kept' ? close() : app.close(), { message: 'pool' })
    const { errors, exitCode } = await app.gracefulShutdown.wait()
    t.strictSame(errors.map(({ message }) => message), ['cache', "Not an error: 'text' (string)", 'pool'])
    t.equal(exitCode, 1)
    t.strictSame(log.messages(/ hook .*failed$|not closed cleanly/), [
      'The anonymous onClose hook of plugin "cache" failed', 'The anonymous onClose hook failed', 'The onClose hook "closePool" failed'
    ])
  })
}

/** The error that a shutdown reports if a hook hangs. */
async function hangError (t: Test, add: (app: FastifyInstance) => unknown, isBefore = false): Promise<string> {
  const app = Fastify() as FastifyInstance
  if (isBefore) add(app)
  await app.register(gracefulPlugin, { shutdownTimeout: 500, drainTimeout: 50 })
  if (!isBefore) add(app)
  await listen(app)
  const { errors: [error, ...rest] } = await app.gracefulShutdown.shutdown()
  t.match(error, { code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' })
  t.strictSame(rest, [])
  return String(error?.message).replace(/^Closing did not end within \d+ ms: it still waits for /, '')
}

const forever = async (): Promise<void> => { await new Promise(() => {}) }

t.test('the error names the hook that hangs and its plugin', async t => {
  t.equal(await hangError(t, app => app.addHook('preClose', async function endStreams () { await forever() })), 'the preClose hook "endStreams"')
  t.equal(await hangError(t, app => app.addHook('onClose', (_instance, _done) => {})), 'the anonymous onClose hook')
  t.equal(await hangError(t, app => app.register(async function database (child) {
    child.addHook('onClose', async () => {})
    child.addHook('onClose', async function closePool () { await forever() })
    child.addHook('onClose', async () => {})
  })), 'the onClose hook "closePool" of plugin "database"')
})

t.test('a hook that hangs and was added before the plugin cannot be named', async t => {
  t.equal(await hangError(t, app => app.addHook('onClose', forever), true), 'a hook added before fastify-graceful, or the server')
})

t.test('hooks of an instance whose registration failed run as with Fastify alone', async t => {
  const failed = Fastify({ logger: { stream: new Writable({ write (_chunk, _encoding, done) { done() } }) } })
  failed.get('/health', async () => 'mine')
  await t.rejects(async () => { await failed.register(gracefulPlugin) }, { code: 'FST_ERR_GRACEFUL_PROBE_PATH' })
  const ran: string[] = []
  failed.addHook('preClose', async () => { ran.push('preClose') })
  failed.addHook('onClose', async () => { ran.push('onClose') })
  await failed.close()
  t.strictSame(ran, ['preClose', 'onClose'])
})

t.test('an invalid onClose hook gets the error of Fastify', async t => {
  const { app } = await createApp(t)
  t.throws(() => (app as unknown as { onClose: (hook: unknown) => void }).onClose('x'), { code: 'AVV_ERR_CALLBACK_NOT_FN' })
})

/** The number of arguments that hooks and callbacks get, by their length. */
async function argumentCounts (register: boolean): Promise<string[]> {
  const app = Fastify() as FastifyInstance
  if (register) await app.register(gracefulPlugin)
  const counts: string[] = []
  const note = (kind: string, args: unknown[]) => { counts.push(`${kind}: ${args.length}`) }
  app.addHook('preClose', async (...args: unknown[]) => { note('preClose of length 0', args) })
  app.addHook('preClose', function (this: unknown, done: () => void) {
    note('preClose of length 1', [...arguments] as unknown[])
    done()
  })
  app.addHook('onClose', async (...args: unknown[]) => { note('onClose of length 0', args) })
  app.addHook('onClose', async function (_instance) { note('onClose of length 1', [...arguments] as unknown[]) })
  app.addHook('onClose', function (_instance, done) {
    note('onClose of length 2', [...arguments] as unknown[])
    done()
  })
  await app.ready()
  const close = app.close as unknown as (listener: (...args: any[]) => unknown) => void // oxlint-disable-line no-explicit-any
  close((...args: unknown[]) => { note('close callback of length 0', args) })
  close(function (_error: unknown) { note('close callback of length 1', [...arguments] as unknown[]) })
  close(function (_error: unknown, done: () => void) {
    note('close callback of length 2', [...arguments] as unknown[])
    done()
  })
  close(function (_error: unknown, _instance: unknown, done: () => void) {
    note('close callback of length 3', [...arguments] as unknown[])
    done()
  })
  await app.close()
  return counts
}

t.test('hooks and close callbacks get as many arguments as with Fastify alone: one with a default parameter is not told otherwise', async t => {
  const counts = await argumentCounts(true)
  t.strictSame(counts, await argumentCounts(false))
  t.equal(counts.length, 9)
})

/** Callbacks of close(), in each form that Fastify takes, that say when they begin and end. */
const listeners: Record<string, (note: (event: string) => Promise<void>) => (...args: never[]) => unknown> = {
  'without parameters, that returns a promise': note => async () => { await note('flush') },
  'with an error, that returns a promise': note => async (_error: unknown) => { await note('flush') },
  'with a done()': note => (_error: unknown, done: () => void) => { void note('flush').then(done) },
  'with the instance and a done()': note => (_error: unknown, _instance: unknown, done: () => void) => { void note('flush').then(done) }
}
for (const [form, listenerFor] of Object.entries(listeners)) {
  for (const hasPlugin of [false, true]) {
    t.test(`close() waits until the callbacks of earlier calls are done, one after another: one ${form}, ${hasPlugin ? 'with' : 'without'} the plugin`, async t => {
      const app = Fastify()
      if (hasPlugin) await app.register(gracefulPlugin, { signals: false })
      await app.ready()
      const events: string[] = []
      const note = async (event: string) => {
        events.push(event)
        await sleep(20)
        events.push(`${event}ed`)
      }
      const close = app.close as unknown as (listener: (...args: never[]) => unknown) => void
      close(listenerFor(note))
      close(async () => { await note('call') })
      await app.close()
      events.push('closed')
      t.strictSame(events, ['flush', 'flushed', 'call', 'called', 'closed'])
    })
  }
}

t.test('close() called again in a callback of the shutdown does not wait for the callback of an earlier close()', async t => {
  const { app } = await createApp(t)
  await app.ready()
  const ran: string[] = []
  app.registerShutdownCallback(async () => {
    await app.close()
    ran.push('cleanup')
  })
  await new Promise<void>(resolve => {
    app.close(() => {
      ran.push('closed')
      resolve()
    })
  })
  t.strictSame(ran, ['cleanup', 'closed'])
})

t.test('preClose hooks run in the order in which their plugins were registered, also if one adds its hook later', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  void app.register(async first => {
    first.addHook('onReady', async () => { first.addHook('preClose', async () => { ran.push('first') }) })
  })
  void app.register(async second => { second.addHook('preClose', async () => { ran.push('second') }) })
  await listen(app)
  await app.close()
  t.strictSame(ran, ['first', 'second'])
})

t.test('a preClose hook that never ends keeps neither later preClose hooks nor onClose hooks from running', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 100, shutdownTimeout: 2_000 })
  const ran: string[] = []
  app.addHook('preClose', async function endStreams () { await forever() })
  app.addHook('preClose', async () => { ran.push('preClose') })
  app.addHook('onClose', async () => { ran.push('onClose') })
  app.registerShutdownCallback(() => { ran.push('cleanup') })
  await listen(app)
  const report = await app.gracefulShutdown.shutdown()
  t.strictSame(ran, ['preClose', 'onClose', 'cleanup'])
  t.match(report, { exitCode: 1, errors: [{ message: /^Closing did not end within \d+ ms: .* preClose hook "endStreams"$/ }] })
  t.equal(report.errors.length, 1)
  t.equal(log.messages(/^A preClose hook is not waited for/).length, 1)
  t.match(await log.line(/^A preClose hook is not waited for/), { err: { code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' } })
})

for (const hangs of [false, true]) {
  t.test(`onClose hooks run although a replaced server.close() never calls back${hangs ? ', and a preClose hook hangs' : ''}`, async t => {
    const { app, log } = await createApp(t, { drainTimeout: 100, shutdownTimeout: 3_000 })
    const { close } = app.server
    // Too late.
    app.server.once('close', () => { close.call(app.server) })
    app.server.close = () => app.server
    let closings = 0
    app.server.on('close', () => { closings++ })
    const ran: string[] = []
    if (hangs) app.addHook('preClose', async function endStreams () { await forever() })
    app.addHook('onClose', async () => { ran.push('onClose') })
    app.registerShutdownCallback(() => { ran.push('cleanup') })
    await listen(app)
    const { errors, exitCode } = await app.gracefulShutdown.shutdown()
    t.strictSame(ran, ['onClose', 'cleanup'])
    const waited = ['the replaced close() of the server', ...hangs ? ['the preClose hook "endStreams"'] : []]
    t.strictSame(errors.map(({ message }) => message.replace(/^Closing did not end within \d+ ms: it still waits for /, '')), waited)
    t.equal(exitCode, 1)
    t.notOk(app.server.listening)
    t.equal(closings, 1)
    t.match(await log.line(/^The server is not waited for any longer/), { err: { code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' } })
  })
}

for (const when of ['before', 'in']) {
  t.test(`a function that is given to fastify.onClose() before or in an onReady hook has all of the remaining time (${when})`, async t => {
    const { app } = await createApp(t, { shutdownTimeout: 1_500, drainTimeout: 400 })
    const ran: string[] = []
    const { onClose } = app as unknown as { onClose: (close: () => Promise<void>) => void }
    const add = () => {
      onClose.call(app, async () => {
        await sleep(1_200)
        ran.push('function')
      })
    }
    if (when === 'before') add()
    else app.addHook('onReady', async () => { add() })
    app.addHook('onClose', async () => { ran.push('onClose') })
    await listen(app)
    const { errors, exitCode } = await app.gracefulShutdown.shutdown()
    t.strictSame(ran.toSorted(), ['function', 'onClose'])
    t.strictSame({ errors, exitCode }, { errors: [], exitCode: 0 })
  })
}

t.test('all hooks that hang are named', async t => {
  const app = Fastify() as FastifyInstance
  await app.register(gracefulPlugin, { drainTimeout: 50, shutdownTimeout: 2_000 })
  app.addHook('preClose', async function endStreams () { await forever() })
  app.addHook('onClose', async function closePool () { await forever() })
  await listen(app)
  const { errors: [, error] } = await app.gracefulShutdown.shutdown()
  t.match(error, { message: / ms: it still waits for the preClose hook "endStreams" and the onClose hook "closePool"$/ })
})

t.test('each of the close() calls that wait for an onClose hook that fails rejects, as with Fastify alone', async t => {
  for (const withPlugin of [false, true]) {
    const app = Fastify()
    if (withPlugin) await app.register(gracefulPlugin, { signals: false })
    app.addHook('onClose', async () => { throw new Error('redis gone') })
    await app.ready()
    const closed = await Promise.allSettled([app.close(), app.close(), app.close()])
    t.match(closed, [1, 2, 3].map(() => ({ status: 'rejected', reason: { message: 'redis gone' } })), withPlugin ? 'with the plugin' : 'alone')
  }
})

t.test('an error that a preClose hook throws after it has called done(), which Fastify alone ignores, is in log and report', async t => {
  const { app, log } = await createApp(t)
  app.addHook('preClose', (done): void => { done(); throw new Error('thrown') })
  await app.close()
  t.match(await app.gracefulShutdown.wait(), { errors: [{ message: 'thrown' }], exitCode: 1 })
  t.equal(log.messages(/^The anonymous preClose hook failed/).length, 1)
})

t.test('close() rejects with what a hook has rejected with, and not if that is nothing, as with Fastify alone', async t => {
  for (const name of ['preClose', 'onClose'] as const) {
    for (const value of [undefined, null, 0, '', 'text', Symbol('text'), { code: 1 }]) {
      const outcomes = await Promise.all([false, true].map(async register => {
        const app = Fastify({ logger: { stream: { write: () => {} } } }) as FastifyInstance
        if (register) await app.register(gracefulPlugin)
        app.addHook(name, async () => { throw value }) // oxlint-disable-line no-throw-literal
        await app.ready()
        const outcome = await app.close().then(() => 'resolved', (error: unknown) => ({ error }))
        if (register) {
          const { errors, exitCode } = await app.gracefulShutdown.wait()
          t.match({ errors, exitCode }, { errors: [{ message: /^Not an error: / }], exitCode: 1 })
          t.equal(errors.length, 1)
        }
        return outcome
      }))
      t.strictSame(outcomes[1], outcomes[0], `${name}: ${inspect(value)}`)
    }
  }
})

t.test('after an onClose hook has failed, the first close() rejects, a later one does not, and a callback gets the error', async t => {
  const counts: number[] = []
  for (const register of [true, false]) {
    const app = Fastify() as FastifyInstance
    if (register) await app.register(gracefulPlugin)
    app.addHook('onClose', async () => { throw new Error('redis gone') })
    await app.ready()
    await t.rejects(async () => { await app.close() }, { message: 'redis gone' })
    await app.close()
    const other = Fastify() as FastifyInstance
    if (register) await other.register(gracefulPlugin)
    other.addHook('onClose', async () => { throw new Error('redis gone') })
    await other.ready()
    await new Promise<void>(resolve => {
      const close = other.close as unknown as (listener: (...args: unknown[]) => void) => void
      close((...args: unknown[]) => {
        counts.push(args.length)
        resolve()
      })
    })
  }
  t.strictSame(counts, [0, 0])
})

t.test('what a close costs grows linearly with the number of contexts that have preClose and onClose hooks', async t => {
  const promisesWith = async (contexts: number): Promise<number> => {
    const { app } = await createApp(t)
    for (let context = 0; context < contexts; context++) {
      app.register(async child => { child.addHook('preClose', async () => {}).addHook('onClose', async () => {}) })
    }
    await app.ready()
    let count = 0
    const hook = createHook({ init: (_id, type) => { if (type === 'PROMISE') count++ } }).enable()
    await app.close()
    hook.disable()
    return count
  }
  const [few, many, more] = [await promisesWith(0), await promisesWith(50), await promisesWith(100)]
  const growth = (more - few) / (many - few)
  t.ok(growth < 2.1, `twice as many contexts: ${growth} times as many promises`)
})
