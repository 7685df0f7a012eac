import t from 'tap'
import { once } from 'node:events'
import { createApp, Deferred, heldRoute, listen, RawClient } from './helpers.ts'

t.test('goes through its phases in order and reports', async t => {
  const { app } = await createApp(t, { shutdownDelay: 20 })
  const held = heldRoute(app)
  const { gracefulShutdown } = app
  const phases: string[] = [gracefulShutdown.phase]
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  t.notOk(app.isShuttingDown)
  gracefulShutdown.onShutdown(() => { phases.push(gracefulShutdown.phase) })
  gracefulShutdown.signal.addEventListener('abort', () => { phases.push(gracefulShutdown.phase) })
  const report = gracefulShutdown.shutdown('deploy')
  t.ok(app.isShuttingDown)
  held.release()
  t.strictSame(await report, await gracefulShutdown.wait())
  phases.push(gracefulShutdown.phase)
  t.strictSame(phases, ['running', 'delaying', 'closing', 'closed'])
  const { reason, phases: times, time, completed, refused, cut, callbacks, errors, exitCode } = await report
  t.strictSame({ reason, completed, refused, cut, errors, exitCode },
    { reason: 'deploy', completed: 1, refused: 0, cut: [], errors: [], exitCode: 0 })
  t.equal(callbacks.length, 1)
  t.strictSame(Object.keys(times), ['delaying', 'draining', 'closing', 'callbacks'])
  t.ok(times.delaying >= 19)
  const sum = times.delaying + times.draining + times.closing + times.callbacks
  t.ok(Math.abs(time - sum) <= 4, `${time}ms in all, ${sum}ms in steps`)
  await client.closed
})

t.test('logs what happens, in order', async t => {
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  app.registerShutdownCallback(() => {}, { name: 'flush' })
  const answers = [app.inject('/held'), app.inject('/held')]
  await held.entered
  const report = app.gracefulShutdown.shutdown('SIGTERM')
  held.release()
  await Promise.all(answers)
  await report
  const told = log.lines.filter(({ level, reqId }) => level >= 30 && reqId === undefined)
  t.match(told.map(({ msg }) => msg), [
    /^SIGTERM received, shutting down$/,
    /^Waiting for 2 in-flight requests to complete\.\.\.$/,
    /^All requests drained in 0\.\ds$/,
    /^Shutdown callback "flush" completed in \d+ms$/,
    /^Graceful shutdown complete$/
  ])
  t.equal(told.length, 5)
  t.ok(told.every(({ level }) => level === 30), 'all at info')
  t.match(told.at(-1), { report: { reason: 'SIGTERM', completed: 2, exitCode: 0 } })
})

t.test('only the name of a signal is logged as received', async t => {
  for (const [reason, message] of [['SIGHUP', 'SIGHUP received, shutting down'], ['SIGNAL lost', 'Shutting down: SIGNAL lost']] as const) {
    const { app, log } = await createApp(t)
    await app.gracefulShutdown.shutdown(reason)
    t.strictSame(log.messages(/shutting down/i), [message])
  }
})

t.test('logs each second how many requests and tasks it waits for, and at debug which', async t => {
  const { app, log } = await createApp(t)
  const held = heldRoute(app)
  const answer = app.inject('/held?x=1')
  await held.entered
  const background = new Deferred()
  void app.gracefulShutdown.track(background.promise, 'reindex')
  const report = app.gracefulShutdown.shutdown()
  await log.line(/^Waiting for reindex \(\d{4}ms\)$/)
  held.release()
  background.resolve()
  await Promise.all([answer, report])
  t.strictSame(log.messages(/^Waiting for \d/), [
    'Waiting for 1 in-flight request and 1 background task to complete...',
    'Waiting for 1 in-flight request and 1 background task to complete...'
  ])
  const debug = log.lines.find(({ msg }) => msg.startsWith('Waiting for GET'))
  t.match(debug, { level: 20, msg: /^Waiting for GET \/held \(req-1, \d+ms\)$/, method: 'GET', route: '/held', reqId: 'req-1' })
})

t.test('does nothing twice', async t => {
  const { app } = await createApp(t)
  let ran = 0
  app.registerShutdownCallback(() => { ran++ })
  await app.ready()
  const waiting = app.gracefulShutdown.wait()
  const reports = await Promise.all([app.gracefulShutdown.shutdown('first'), app.gracefulShutdown.shutdown('second'), waiting])
  await Promise.all([app.close(), app.close()])
  t.equal(new Set(reports).size, 1)
  t.equal(reports[0]?.reason, 'first')
  t.equal(ran, 1)
  t.equal((await app.gracefulShutdown.shutdown()).reason, 'first')
})

t.test('fastify.close() starts the same shutdown', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const ran: string[] = []
  app.registerShutdownCallback(() => { ran.push('callback') })
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const closed = app.close().then(() => { ran.push('closed') })
  t.equal(app.gracefulShutdown.phase, 'draining')
  held.release()
  await closed
  await client.closed
  t.match(client.text, '{"held":true}')
  t.strictSame(ran, ['callback', 'closed'])
  t.match(await app.gracefulShutdown.wait(), { reason: 'close', completed: 1 })
})

t.test('close() of a child instance, with a callback, and by asyncDispose start the same shutdown', async t => {
  for (const close of [
    async (app: { close: (done: () => void) => void }) => { await new Promise<void>(resolve => { app.close(resolve) }) },
    async (app: object) => { await (app as AsyncDisposable)[Symbol.asyncDispose]() }
  ]) {
    const { app } = await createApp(t)
    let ran = 0
    app.registerShutdownCallback(() => { ran++ })
    let child = app
    app.register(async instance => { child = instance })
    await app.ready()
    await close(child)
    t.equal(app.gracefulShutdown.phase, 'closed')
    t.equal(ran, 1)
  }
})

t.test('a close() that was saved before the registration also drains', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  const close = app.close.bind(app)
  await app.register(gracefulPlugin)
  let ran = 0
  app.registerShutdownCallback(() => { ran++ })
  const held = heldRoute(app)
  const answer = app.inject('/held')
  await held.entered
  const closed = close()
  await once(app.gracefulShutdown.signal, 'abort')
  t.equal((await app.inject('/ready')).body, '{"ready":false,"reason":"shutting_down"}', 'Fastify still serves')
  held.release()
  t.equal((await answer).statusCode, 200)
  await closed
  t.match(await app.gracefulShutdown.wait(), { reason: 'close', completed: 1, exitCode: 0 })
  t.equal(ran, 1)
})

t.test('a close() that was saved before the registration, called before the instance is ready, runs hooks after background work', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  const close = app.close.bind(app)
  const happened: string[] = []
  app.addHook('onClose', async () => { happened.push('pool closed') })
  await app.register(gracefulPlugin)
  const work = new Deferred()
  void app.gracefulShutdown.track(work.promise).then(() => { happened.push('work done') })
  const closed = close()
  await once(app.gracefulShutdown.signal, 'abort')
  // Long enough for the hook to run if it does not wait.
  for (let turn = 0; turn < 100; turn++) await new Promise(resolve => { setImmediate(resolve) })
  work.resolve()
  await closed
  t.strictSame(happened, ['work done', 'pool closed'])
  t.match(await app.gracefulShutdown.wait(), { reason: 'close', cut: { length: 0 }, exitCode: 0 })
})

t.test('closing before anything was loaded, or ready, also runs the callbacks', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  let ran = 0
  app.register(gracefulPlugin)
  app.register(async instance => { instance.registerShutdownCallback(() => { ran++ }) })
  await app.close()
  t.match(await app.gracefulShutdown.wait(), { reason: 'close', exitCode: 0 })
  t.equal(ran, 1)
})

t.test('close() rejects a listener that is not a function, as Fastify does', async t => {
  const { app } = await createApp(t)
  t.throws(() => { app.close('no' as unknown as () => void) }, { code: 'AVV_ERR_CALLBACK_NOT_FN' })
  t.equal(app.gracefulShutdown.phase, 'running')
})

t.test('an onClose hook that fails makes close() reject, after the callbacks', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  await app.register(gracefulPlugin)
  let ran = 0
  app.registerShutdownCallback(() => { ran++ })
  app.addHook('onClose', async () => { throw new Error('pool') })
  await t.rejects(async () => { await app.close() }, { message: 'pool' })
  t.equal(ran, 1)
  t.match(await app.gracefulShutdown.wait(), { errors: [{ message: 'pool' }], exitCode: 1 })
  const error = await new Promise(resolve => { (app.close as (done: (error: unknown) => void) => void)(resolve) })
  t.equal(error, null, 'a later close() does not fail')
})

t.test('an onClose hook that hangs delays neither the callbacks nor the end', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: gracefulPlugin } = await import('../index.ts')
  const app = Fastify()
  await app.register(gracefulPlugin, { shutdownTimeout: 300, drainTimeout: 100 })
  let ran = 0
  app.registerShutdownCallback(() => { ran++ })
  app.addHook('onClose', async () => { await new Promise(() => {}) })
  await listen(app)
  const report = await app.gracefulShutdown.shutdown()
  t.match(report, { errors: [{ code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' }], exitCode: 1 })
  t.equal(ran, 1)
  t.ok(report.time < 300, `took ${report.time}ms`)
  for (const time of ['first', 'second']) await t.rejects(async () => { await app.close() }, { code: 'FST_ERR_GRACEFUL_CLOSE_TIMEOUT' }, time)
})

t.test('cuts requests that are still in flight at the drain timeout, and names them', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 50 })
  const held = heldRoute(app, '/held/:id')
  let ran = 0
  app.registerShutdownCallback(() => { ran++ })
  void app.gracefulShutdown.track(new Promise(() => {}), 'reindex')
  const client = new RawClient(await listen(app)).get('/held/1')
  await held.entered
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503[^]*connection: close[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/i)
  t.match(report.cut, [
    { kind: 'request', method: 'GET', route: '/held/:id', url: '/held/1', reqId: 'req-1' },
    { kind: 'task', name: 'reindex' }
  ])
  t.ok(report.cut.every(({ age }) => age >= 49))
  t.equal(report.exitCode, 1)
  t.equal(ran, 1)
  t.match(await log.line(/^Request cut/), { level: 50, method: 'GET', route: '/held/:id', reqId: 'req-1', code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT' })
  t.match(await log.line(/^Background work cut: reindex/), { level: 50 })
  t.strictSame(log.messages(/All requests drained/), [])
  held.release()
})

t.test('names once a request that is cut by the write timeout and still runs at the drain timeout', async t => {
  const { app, log } = await createApp(t, { drainTimeout: 200, writeTimeout: 50 })
  const held = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, 'FST_ERR_GRACEFUL_WRITE_TIMEOUT')
  t.match(report, { cut: [{ route: '/held' }], exitCode: 1 })
  t.equal(report.cut.length, 1)
  t.equal(log.messages(/^Request cut/).length, 1)
  t.ok(report.phases.draining >= 199, 'its handler was waited for')
  held.release()
})

t.test('without a delay, the report says that delaying took no time', async t => {
  const stream = { write: () => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20) } }
  const { app } = await createApp(t, {}, { logger: { stream } })
  const { phases } = await app.gracefulShutdown.shutdown()
  t.equal(phases.delaying, 0)
})

t.test('cuts a response in progress at the drain timeout', async t => {
  const { app } = await createApp(t, { drainTimeout: 50 })
  app.get('/stream', (_request, reply) => {
    reply.raw.writeHead(200)
    reply.raw.write('some')
  })
  const client = new RawClient(await listen(app)).get('/stream')
  await client.until(/some/)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(report, { cut: [{ route: '/stream' }], exitCode: 1 })
  t.equal(app.inFlightRequests, 0)
})

t.test('the largest drainTimeout that fits leaves time for closing and for callbacks', async t => {
  const { app } = await createApp(t, { shutdownTimeout: 5_000, drainTimeout: 4_500 })
  const held = heldRoute(app)
  let left = 0
  app.registerShutdownCallback(({ deadline }) => { left = deadline - Date.now() })
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const { errors, callbacks } = await app.gracefulShutdown.shutdown()
  await client.closed
  held.release()
  t.strictSame(errors, [])
  t.match(callbacks, [{ error: undefined }])
  t.ok(left > 0, `${left}ms left`)
})

t.test('the signal tells long-lived responses to end', async t => {
  const { app } = await createApp(t)
  app.get('/events', (_request, reply) => {
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' })
    reply.raw.write('data: hello\n\n')
    app.gracefulShutdown.signal.addEventListener('abort', () => { reply.raw.end('data: bye\n\n') })
  })
  const client = new RawClient(await listen(app)).get('/events')
  await client.until(/hello/)
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  t.match(client.text, /data: bye/)
  t.match(report, { cut: { length: 0 }, completed: 1, exitCode: 0 })
})

t.test('an aborted listen signal starts the same shutdown', async t => {
  const { app } = await createApp(t)
  const controller = new AbortController()
  await app.listen({ port: 0, host: '127.0.0.1', signal: controller.signal })
  controller.abort()
  t.match(await app.gracefulShutdown.wait(), { reason: 'close', exitCode: 0 })
})

t.test('a drain timeout of zero waits for no request', async t => {
  const { app } = await createApp(t, { drainTimeout: 0 })
  const held = heldRoute(app)
  const answer = app.inject('/held')
  await held.entered
  t.match(await app.gracefulShutdown.shutdown(), { cut: [{ route: '/held' }], exitCode: 1 })
  t.equal((await answer).statusCode, 503)
  held.release()
})
