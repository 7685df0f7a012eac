// The diagnostics channels, and `slowest` in the report.

import t from 'tap'
import type { Test } from 'tap'
import type { GracefulOptions } from '../types/index.ts'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { Channels } from '../lib/lifecycle/channels.ts'
import { collect, createApp, Deferred, fork, heldRoute, heldShutdown, listen, portOf, RawClient } from './helpers.ts'

/** An app with a request to `/held/:id` that is not released. */
async function held (t: Test, options: GracefulOptions = {}) {
  const { app, log } = await createApp(t, options)
  const { entered, release } = heldRoute(app, '/held/:id')
  const port = await listen(app)
  const client = new RawClient(port).get('/held/1?secret')
  await entered
  return { app, log, port, client, release }
}

t.test('a message is made only for subscribers', async t => {
  const { app } = await createApp(t)
  const channels = new Channels(app)
  let made = 0
  const publish = () => {
    channels.publish('phase', () => {
      made++
      return { phase: 'closed' as const, reason: 'a test' }
    })
  }
  publish()
  t.equal(made, 0)
  const messages = collect(t, 'fastify-graceful:phase')
  publish()
  t.equal(made, 1)
  t.strictSame(messages.map(({ phase, reason }) => ({ phase, reason })), [{ phase: 'closed', reason: 'a test' }])
})

t.test('publishes each phase when it has started, with the reason', async t => {
  const phases = collect(t, 'fastify-graceful:phase')
  const { app } = await createApp(t, { shutdownDelay: 10 })
  await listen(app)
  const current: string[] = []
  const look = () => { current.push(app.gracefulShutdown.phase) }
  subscribe('fastify-graceful:phase', look)
  t.teardown(() => { unsubscribe('fastify-graceful:phase', look) })
  await app.gracefulShutdown.shutdown('a test')
  const expected = ['delaying', 'draining', 'closing', 'closed'] as const
  t.strictSame(phases.map(({ phase, reason }) => ({ phase, reason })), expected.map(phase => ({ phase, reason: 'a test' })))
  t.strictSame(current, expected)
})

t.test('publishes no phase that is skipped', async t => {
  const phases = collect(t, 'fastify-graceful:phase')
  const { app } = await createApp(t)
  await app.close()
  t.strictSame(phases.map(({ phase }) => phase), ['draining', 'closing', 'closed'])
})

t.test('each message has the root instance', async t => {
  const phases = collect(t, 'fastify-graceful:phase')
  const reports = collect(t, 'fastify-graceful:report')
  const one = (await createApp(t)).app
  const other = (await createApp(t)).app
  await one.close()
  await other.close()
  t.ok(phases.slice(0, 3).every(({ fastify }) => fastify === one))
  t.ok(phases.slice(3).every(({ fastify }) => fastify === other))
  t.ok(reports[0]?.fastify === one && reports[1]?.fastify === other)
})

t.test('publishes the report that shutdown() resolves to', async t => {
  const reports = collect(t, 'fastify-graceful:report')
  const { app } = await createApp(t)
  const report = await app.gracefulShutdown.shutdown()
  t.equal(reports.length, 1)
  t.equal(reports[0]?.report, report)
})

t.test('publishes each callback as it ends, with its error', async t => {
  const callbacks = collect(t, 'fastify-graceful:callback')
  const { app } = await createApp(t)
  const error = new Error('down')
  app.registerShutdownCallback(() => { t.equal(callbacks.length, 0) }, { name: 'queue' })
  app.registerShutdownCallback(() => {
    t.equal(callbacks.length, 1)
    throw error
  }, { name: 'database' })
  const report = await app.gracefulShutdown.shutdown()
  t.strictSame(callbacks.map(({ callback }) => callback), report.callbacks)
  t.match(callbacks.map(({ callback }) => callback), [{ name: 'queue', error: undefined }, { name: 'database', error }])
})

t.test('publishes each rejected request', async t => {
  const refused = collect(t, 'fastify-graceful:refused')
  const { app, port, client, release, report } = await heldShutdown(t)
  const late = new RawClient(port).get('/held?late')
  await late.closed
  release()
  await client.closed
  t.equal((await report).refused, 1)
  t.equal(refused.length, 1)
  t.equal(refused[0]?.fastify, app)
  t.match(refused[0]?.entry, { kind: 'request', method: 'GET', route: '/held', url: '/held?late', reqId: 'req-2' })
})

t.test('publishes each request and task that the end of the drain cuts, once', async t => {
  const cuts = collect(t, 'fastify-graceful:cut')
  const { app, client } = await held(t, { drainTimeout: 50 })
  void app.gracefulShutdown.track(new Promise(() => {}), 'reindex')
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.strictSame(cuts.map(({ entry }) => entry), report.cut)
  t.match(cuts, [
    { code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT', entry: { kind: 'request', route: '/held/:id', reqId: 'req-1' } },
    { code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT', entry: { kind: 'task', name: 'reindex' } }
  ])
})

t.test('publishes a request that a timeout cuts while the instance runs', async t => {
  const cuts = collect(t, 'fastify-graceful:cut')
  const { app, client, release } = await held(t, { writeTimeout: 100 })
  await client.closed
  t.equal(app.isShuttingDown, false)
  t.match(cuts, [{ code: 'FST_ERR_GRACEFUL_WRITE_TIMEOUT', entry: { route: '/held/:id' } }])
  release()
})

t.test('a subscriber that throws makes the shutdown unclean, but does not stop it', async t => {
  const program = fork(t, 'throwing-subscriber')
  const port = await portOf(program)
  const client = new RawClient(port).get('/held')
  await program.log.line(/^entered$/)
  program.kill('SIGTERM')
  await client.closed
  t.match(client.text, /^HTTP\/1.1 200 OK/)
  t.match(await program.log.line(/^Uncaught error$/), { err: { message: 'subscriber of draining' } })
  t.match(await program.log.line(/^Shutdown complete, with errors/), { report: { completed: 1, errors: ['subscriber of draining', 'subscriber of closing'] } })
  t.strictSame(await program.exit, { code: 1, signal: null })
})

for (const LOG_LEVEL of ['info', 'error']) {
  t.test(`a subscriber that throws at the end of the shutdown is logged, and ends no process (level ${LOG_LEVEL})`, async t => {
    const program = fork(t, 'throwing-subscriber', { PHASE: 'closed', LOG_LEVEL, CLOSES: '1' })
    t.match(await program.log.line(/^Uncaught error$/), { err: { message: 'subscriber of closed' } })
    await program.log.line(/^flushed$/)
    t.match(await program.exit, { signal: null })
  })
}

t.test('`slowest` names the last five requests and tasks that the drain waited for, the last one first', async t => {
  const { app, log, client, release } = await held(t)
  const tasks = Array.from({ length: 6 }, () => new Deferred())
  for (const [index, { promise }] of tasks.entries()) void app.gracefulShutdown.track(promise, `task ${index}`)
  const report = app.gracefulShutdown.shutdown()
  for (const { promise, resolve } of tasks) {
    resolve()
    await promise
  }
  await log.line(/^Waiting for/)
  release()
  await client.closed
  const { slowest, phases } = await report
  t.match(slowest, [
    { kind: 'request', method: 'GET', route: '/held/:id', reqId: 'req-1' },
    ...[5, 4, 3, 2].map(index => ({ kind: 'task', name: `task ${index}` }))
  ])
  t.equal(slowest.length, 5)
  for (const { kind, age, after } of slowest) {
    // Fastify ends the time of a request with its response, a moment before the plugin hears of it.
    t.ok(kind === 'request' || age >= after, `${age} ${after}`)
    t.ok(after >= 0 && after <= phases.delaying + phases.draining + 1, `${after}`)
  }
  t.strictSame((await log.line(/^Graceful shutdown complete/))['report'], JSON.parse(JSON.stringify(await report)))
})

t.test('`slowest` has the time from the start of the shutdown, with the delay', async t => {
  const { app, log, client, release } = await held(t, { shutdownDelay: 100 })
  const report = app.gracefulShutdown.shutdown()
  await log.line(/^Waiting for/)
  release()
  await client.closed
  const { slowest: [entry] } = await report
  t.ok(entry !== undefined && entry.after >= 99 && entry.age >= 99, JSON.stringify(entry))
})

t.test('`slowest` has nothing that ended before the drain, or that its end cut', async t => {
  const { app, client } = await held(t, { drainTimeout: 50, shutdownDelay: 5_000 })
  const short = new Deferred()
  void app.gracefulShutdown.track(short.promise, 'short')
  const report = app.gracefulShutdown.shutdown()
  short.resolve()
  await short.promise
  app.gracefulShutdown.skipDelay()
  await client.closed
  const { slowest, cut } = await report
  t.strictSame(slowest, [])
  t.match(cut, [{ route: '/held/:id' }])
})

t.test('`slowest` has a request that a timeout cut, if its handler ended during the drain', async t => {
  const { app, client, release } = await held(t, { writeTimeout: 100 })
  const report = app.gracefulShutdown.shutdown()
  await client.closed
  release()
  t.match(await report, { slowest: [{ route: '/held/:id' }], cut: [{ route: '/held/:id' }] })
})
