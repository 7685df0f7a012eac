import t from 'tap'
import type { ShutdownContext } from '../types/index.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import { createApp, Deferred, eventually, listen } from './helpers.ts'

t.test('runs callbacks one after another, in the order registered', async t => {
  const { app, log } = await createApp(t)
  const ran: string[] = []
  const slow = new Deferred()
  app.registerShutdownCallback(async () => {
    ran.push('first starts')
    await slow.promise
    ran.push('first ends')
  }, { name: 'first' })
  app.gracefulShutdown.onShutdown(function second () { ran.push('second') })
  app.gracefulShutdown.onShutdown(() => { ran.push('third') })
  app.addHook('onClose', async () => {
    ran.push('onClose of a plugin')
    slow.resolve()
  })
  const report = await app.gracefulShutdown.shutdown()
  t.strictSame(ran, ['onClose of a plugin', 'first starts', 'first ends', 'second', 'third'])
  t.match(report.callbacks, [{ name: 'first' }, { name: 'second' }, { name: 'callback 3' }])
  t.ok(report.callbacks.every(({ time, error }) => time >= 0 && time <= report.time && error === undefined))
  t.equal(report.exitCode, 0)
  t.match(log.messages(/callback/), [
    /^Shutdown callback "first" completed in \d+ms$/, /"second" completed/, /"callback 3" completed/
  ])
})

t.test('runs callbacks after the onClose hooks of plugins that were registered before it', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  await app.register(gracefulPlugin)
  app.registerShutdownCallback(() => { ran.push('callback') })
  await app.close()
  t.strictSame(ran, ['onClose', 'callback'])
})

t.test('gives a callback signal, deadline, reason and log', async t => {
  const { app, log } = await createApp(t, { shutdownTimeout: 10_000, drainTimeout: 1_000 })
  const contexts: ShutdownContext[] = []
  let left = 0
  app.registerShutdownCallback(context => {
    contexts.push(context)
    left = context.deadline - Date.now()
    context.log.info('from the callback')
  }, { name: 'only' })
  await app.gracefulShutdown.shutdown('a test')
  const [context] = contexts
  t.match(context, { reason: 'a test' })
  t.notOk(context?.signal.aborted)
  t.ok(left > 9_000 && left < 10_000, `has ${left}ms`)
  t.match(await log.line(/from the callback/), { shutdownCallback: 'only', level: 30 })
})

t.test('runs every callback when some throw, and collects their errors', async t => {
  const { app, log } = await createApp(t)
  const thrown = new Error('sync')
  app.registerShutdownCallback(() => { throw thrown }, { name: 'throws' })
  app.registerShutdownCallback(async () => { throw new Error('async') }, { name: 'rejects' })
  app.registerShutdownCallback(async () => { await Promise.reject('a string') }, { name: 'odd' }) // oxlint-disable-line prefer-promise-reject-errors
  app.registerShutdownCallback(() => {}, { name: 'fine' })
  const { callbacks, exitCode } = await app.gracefulShutdown.shutdown()
  t.match(callbacks, [
    { name: 'throws', error: thrown }, { name: 'rejects', error: { message: 'async' } },
    { name: 'odd', error: { message: 'a string', cause: 'a string' } }, { name: 'fine', error: undefined }
  ])
  t.equal(exitCode, 1)
  t.match(await log.line(/"throws" failed after \d+ms/), { level: 50, err: { message: 'sync' } })
  t.strictSame(log.messages(/Graceful shutdown complete/), [])
  t.match(await log.line(/^Shutdown complete, with errors/), {
    level: 50, report: { callbacks: [{ error: 'sync' }, { error: 'async' }, { error: 'a string' }, { name: 'fine', error: undefined }] }
  })
})

t.test('ends a callback at its own timeout, aborts its signal and runs the next', async t => {
  const { app } = await createApp(t)
  const contexts: ShutdownContext[] = []
  app.registerShutdownCallback(async context => {
    contexts.push(context)
    await new Promise(() => {})
  }, { name: 'hangs', timeout: 30 })
  app.registerShutdownCallback(() => {}, { name: 'next' })
  const { callbacks, exitCode } = await app.gracefulShutdown.shutdown()
  t.match(callbacks, [
    { name: 'hangs', error: { code: 'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT', message: /"hangs" did not finish within 30 ms/ } },
    { name: 'next', error: undefined }
  ])
  t.ok((callbacks[0]?.time ?? 0) >= 29)
  t.ok(contexts[0]?.signal.aborted)
  t.match(contexts[0]?.signal.reason, { code: 'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT' })
  t.equal(exitCode, 1)
})

t.test('gives each callback a fair share of the time, so that none starves the others', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 2_000, drainTimeout: 100 })
  const limits: number[] = []
  const hang = async ({ deadline }: ShutdownContext) => {
    limits.push(deadline - Date.now())
    await new Promise(() => {})
  }
  app.registerShutdownCallback(hang, { name: 'a' })
  app.registerShutdownCallback(hang, { name: 'b' })
  app.registerShutdownCallback(({ deadline }) => { limits.push(deadline - Date.now()) }, { name: 'c' })
  const { time, callbacks } = await app.gracefulShutdown.shutdown()
  t.match(callbacks.map(({ error }) => error === undefined), [false, false, true])
  t.ok(limits.every(limit => limit > 300 && limit < 800), limits.join(', '))
  t.ok(time < 2_000, `took ${time}ms`)
})

t.test("shortens a callback's own timeout so that each later callback keeps half of its fair share", async t => {
  const { app } = await createApp(t, { shutdownTimeout: 10_000, drainTimeout: 1_000 })
  // Deadlines are then limits, even if the callback is called late.
  t.intercept(Date, 'now', { value: () => 0 })
  const limits: number[] = []
  const keep = ({ deadline }: ShutdownContext) => { limits.push(deadline) }
  app.registerShutdownCallback(keep, { timeout: 10_000 })
  app.registerShutdownCallback(keep, { timeout: 500 })
  app.registerShutdownCallback(keep)
  await app.gracefulShutdown.shutdown()
  const [first = 0, second, third = 0] = limits
  t.equal(second, 500)
  // 9,750 ms at most: a busy machine takes some of them before the first callback, and between them.
  t.ok(third > first && third <= 9_750, limits.join(', '))
  // 10,000 is shortened so that the other two keep half of a third each.
  t.ok(first >= Math.floor(third * 2 / 3) && first <= 6_500, limits.join(', '))
})

t.test('a callback gets no time if closing has taken more than all of it', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 500, drainTimeout: 100 })
  app.addHook('onClose', async () => {
    const end = performance.now() + 2_000
    while (performance.now() < end);
  })
  app.registerShutdownCallback(async () => { await new Promise(() => {}) }, { name: 'first', timeout: 400 })
  app.registerShutdownCallback(() => {}, { name: 'second' })
  const { callbacks } = await app.gracefulShutdown.shutdown()
  t.match(callbacks[0]?.error, { message: /"first" did not finish within [01] ms/ })
})

t.test('rejects what is not a function at registration', async t => {
  const { app } = await createApp(t)
  for (const [callback, shown] of [[undefined, 'undefined'], [null, 'null'], ['x', "'x' (string)"], [{}, '{}']] as const) {
    for (const register of [app.registerShutdownCallback, app.gracefulShutdown.onShutdown]) {
      t.throws(() => { register(callback as unknown as () => void) }, { code: 'FST_ERR_GRACEFUL_CALLBACK_INVALID', message: `got ${shown}` })
    }
  }
})

t.test('rejects invalid options of a callback', async t => {
  const { app } = await createApp(t)
  const register = (options: unknown) => () => { app.registerShutdownCallback(() => {}, options as object) }
  for (const options of [null, 'name', [], { name: '' }, { name: 1 }, { timeout: 0 }, { timeout: '1' }, { timeout: NaN }, { timeout: 30_001 }]) {
    t.throws(register(options), { code: 'FST_ERR_GRACEFUL_OPTION_INVALID' })
  }
  t.throws(register({ timeOut: 1 }), { code: 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', message: /"timeOut" \(did you mean "timeout"\?\), known are name, timeout/ })
})

t.test('accepts a callback while requests drain, and rejects one once callbacks run', async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  const draining = app.gracefulShutdown.shutdown()
  t.equal(app.gracefulShutdown.phase, 'draining')
  app.registerShutdownCallback(() => {
    ran.push('late')
    t.throws(() => { app.registerShutdownCallback(function tooLate () {}) },
      { code: 'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE', message: /"tooLate" is registered too late/ })
  })
  await draining
  t.strictSame(ran, ['late'])
  t.throws(() => { app.registerShutdownCallback(() => {}) }, { code: 'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE' })
})

t.test("callbacks with when: 'start' run at the same time as the shutdown starts, and the drain waits for them", async t => {
  const { app, log } = await createApp(t, { shutdownDelay: 5_000 })
  await listen(app)
  const ran: string[] = []
  const slow = new Deferred()
  const { gracefulShutdown } = app
  gracefulShutdown.onShutdown(async ({ reason, signal }) => {
    ran.push(`worker in ${gracefulShutdown.phase}, ${reason}, ${signal.aborted}`)
    await slow.promise
    ran.push('worker ends')
  }, { name: 'worker', when: 'start' })
  gracefulShutdown.onShutdown(async () => { ran.push('consumer') }, { name: 'consumer', when: 'start' })
  gracefulShutdown.onShutdown(() => { ran.push('pool') }, { name: 'pool', when: 'end' })
  const report = gracefulShutdown.shutdown()
  await eventually(() => gracefulShutdown.inFlight().length === 1)
  t.strictSame(ran, ['worker in delaying, shutdown, false', 'consumer'])
  t.match(gracefulShutdown.inFlight(), [{ kind: 'task', name: 'worker' }])
  t.throws(() => { gracefulShutdown.onShutdown(() => {}, { when: 'start' }) }, { code: 'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE' })
  gracefulShutdown.onShutdown(() => { ran.push('late') }, { name: 'late' })
  gracefulShutdown.skipDelay()
  await log.line(/Waiting for 1 background task to complete/)
  slow.resolve()
  t.match(await report, {
    callbacks: [{ name: 'consumer' }, { name: 'worker' }, { name: 'pool' }, { name: 'late' }], cut: { length: 0 }, errors: { length: 0 }, exitCode: 0
  })
  t.strictSame(ran.slice(2), ['worker ends', 'pool', 'late'])
})

t.test("a callback with when: 'start' that fails is reported, and does not stop the others", async t => {
  const { app } = await createApp(t)
  const ran: string[] = []
  app.registerShutdownCallback(() => { throw new Error('unreachable') }, { name: 'deregister', when: 'start' })
  app.registerShutdownCallback(async () => { ran.push('worker') }, { name: 'worker', when: 'start' })
  app.registerShutdownCallback(() => { ran.push('pool') }, { name: 'pool' })
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { callbacks: [{ name: 'deregister', error: { message: 'unreachable' } }, { name: 'worker' }, { name: 'pool' }], exitCode: 1 })
  t.strictSame(ran, ['worker', 'pool'])
})

t.test("a callback with when: 'start' has until its timeout or the end of the drain, and then its signal aborts", async t => {
  const { app, log } = await createApp(t, { drainTimeout: 300, shutdownTimeout: 5_000 })
  const contexts: Record<string, ShutdownContext> = {}
  for (const [name, timeout] of [['own timeout', 100], ['drain', undefined], ['longer than the drain', 4_000]] as const) {
    app.registerShutdownCallback(async context => {
      contexts[name] = context
      await new Promise(() => {})
    }, { name, when: 'start', ...timeout !== undefined && { timeout } })
  }
  const { callbacks, cut, exitCode } = await app.gracefulShutdown.shutdown()
  t.match(callbacks, ['own timeout', 'drain', 'longer than the drain'].map(name => ({ name, error: { code: 'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT' } })))
  const [own = 0, ...drained] = callbacks.map(({ error }) => Number(/did not finish within (\d+) ms$/.exec(error?.message ?? '')?.[1]))
  t.equal(own, 100)
  t.ok(drained.every(time => time >= 299 && time < 4_000), drained.join(', '))
  // The one that has reached its own limit is no longer waited for.
  t.match(cut, ['drain', 'longer than the drain'].map(name => ({ kind: 'task', name })))
  t.equal(cut.length, 2)
  t.equal(exitCode, 1)
  t.ok(Object.values(contexts).every(({ signal }) => signal.aborted))
  t.equal(log.messages(/did not finish|failed after/).length, 3)
})

t.test("a shutdown that is awaited in a callback with when: 'start' does not wait for itself", async t => {
  const { app } = await createApp(t)
  app.registerShutdownCallback(async () => {
    await app.close()
    await app.gracefulShutdown.wait()
  }, { when: 'start' })
  t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 })
})

for (const shutdownDelay of [0, 50]) {
  t.test(`a callback with when: 'start' is too late as the shutdown starts, with a delay of ${shutdownDelay} ms`, async t => {
    const { app } = await createApp(t, { shutdownDelay })
    await listen(app)
    app.gracefulShutdown.signal.addEventListener('abort', () => {
      t.throws(() => { app.registerShutdownCallback(() => {}, { when: 'start' }) }, { code: 'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE' })
    })
    t.match(await app.gracefulShutdown.shutdown(), { exitCode: 0 })
  })
}

t.test("an adaptive delay does not end while a callback with when: 'start' runs, which has as long as its deadline says", async t => {
  const { app } = await createApp(t, { shutdownDelay: { max: 20_000, quiet: 10 }, drainTimeout: 0 })
  await listen(app)
  const done = new Deferred()
  const entered = new Deferred<number>()
  app.registerShutdownCallback(async ({ deadline }) => {
    entered.resolve(deadline - Date.now())
    await done.promise
  }, { when: 'start' })
  const report = app.gracefulShutdown.shutdown()
  const left = await entered.promise
  t.ok(left > 10_000 && left <= 20_000, String(left))
  await sleep(50)
  t.equal(app.gracefulShutdown.phase, 'delaying')
  done.resolve()
  t.match(await report, { callbacks: [{ error: undefined }], exitCode: 0 })
})

t.test("a callback with when: 'start' that runs when the drain ends has taken too long, also if the delay was skipped", async t => {
  const { app } = await createApp(t, { shutdownDelay: 20_000, drainTimeout: 100 })
  await listen(app)
  app.registerShutdownCallback(async () => { await new Promise(() => {}) }, { name: 'consumer', when: 'start' })
  const report = app.gracefulShutdown.shutdown()
  app.gracefulShutdown.skipDelay()
  t.match(await report, { callbacks: [{ name: 'consumer', error: { code: 'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT' } }], exitCode: 1 })
})

t.test('an error without a message, as of a failed connect to several addresses, is named by its code, or by its kind', async t => {
  const { app, log } = await createApp(t)
  app.registerShutdownCallback(() => { throw Object.assign(new AggregateError([], ''), { code: 'ECONNREFUSED' }) }, { name: 'database' })
  app.registerShutdownCallback(() => { throw new RangeError('') }, { name: 'range' })
  await app.gracefulShutdown.shutdown()
  const { report } = await log.line(/^Shutdown complete, with errors/) as unknown as { report: object }
  t.match(report, { callbacks: [{ name: 'database', error: 'ECONNREFUSED' }, { name: 'range', error: 'RangeError' }] })
})

t.test('rejects a callback for another moment than the start or the end', async t => {
  const { app } = await createApp(t)
  t.throws(() => { app.registerShutdownCallback(() => {}, { when: 'drained' as 'end' }) },
    { code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: /option "when".*'drained'.*'start' or 'end'/ })
})

t.test('the deadline of a callback is a whole number of milliseconds, as AbortSignal.timeout() requires', async t => {
  const { app } = await createApp(t)
  for (const name of ['first', 'second', 'third']) {
    app.registerShutdownCallback(({ deadline }) => { AbortSignal.timeout(deadline - Date.now()) }, { name })
  }
  const { callbacks, exitCode } = await app.gracefulShutdown.shutdown()
  t.strictSame(callbacks.map(({ error }) => error), [undefined, undefined, undefined])
  t.equal(exitCode, 0)
})
