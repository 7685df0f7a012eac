// onClose hooks: they wait for the drain, may wait for the shutdown, and are named if they fail or hang, whatever closes Fastify.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { Writable } from 'node:stream'
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
  return String(error?.message).replace(/^Fastify did not close within \d+ ms: /, '')
}

const forever = async (): Promise<void> => { await new Promise(() => {}) }

t.test('the error names the hook that hangs and its plugin', async t => {
  t.equal(await hangError(t, app => app.addHook('preClose', async function endStreams () { await forever() })), 'the preClose hook "endStreams" hangs')
  t.equal(await hangError(t, app => app.addHook('onClose', (_instance, _done) => {})), 'the anonymous onClose hook hangs')
  t.equal(await hangError(t, app => app.register(async function database (child) {
    child.addHook('onClose', async () => {})
    child.addHook('onClose', async function closePool () { await forever() })
    child.addHook('onClose', async () => {})
  })), 'the onClose hook "closePool" of plugin "database" hangs')
})

t.test('a hook that hangs and was added before the plugin cannot be named', async t => {
  t.equal(await hangError(t, app => app.addHook('onClose', forever), true), 'a hook added before fastify-graceful, or the server, hangs')
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
