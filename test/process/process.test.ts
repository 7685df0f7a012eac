import t from 'tap'
import Fastify from 'fastify'
import gracefulPlugin from '../../index.ts'
import { CRASH_SIGNALS, DEFAULT_EVENTS, PROCESS_EVENTS } from '../../lib/options.ts'
import { COVERED, eventually, exitInTime, fork, listen, portOf, RawClient } from '../helpers.ts'

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  t.test(`${signal} with a request in flight: answers it, cleans up, exits with 0`, async t => {
    const service = fork(t, 'service')
    const client = new RawClient(await portOf(service)).get('/slow?ms=300')
    await service.log.line(/slow request is in/)
    service.kill(signal)
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close[^]*slow$/i)
    t.strictSame(await service.exit, { code: 0, signal: null })
    // Compared as a set, because pino writes asynchronously, and the last lines at once when the process exits.
    t.strictSame(new Set(service.log.messages(/received|drained|runs|complete$/).map(message => message.replace(/[\d.]+s$/, 'Ns'))), new Set([
      `${signal} received, shutting down`, 'All requests drained in Ns', 'onClose runs', `callback runs: ${signal}`, 'Graceful shutdown complete'
    ]))
  })
}

t.test('exits with 1 when a request was cut, and still cleans up', async t => {
  const service = fork(t, 'service', { OPTIONS: '{"drainTimeout":100}' })
  const client = new RawClient(await portOf(service)).get('/stuck')
  await service.log.line(/stuck request is in/)
  service.kill('SIGTERM')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503/)
  t.strictSame(await service.exit, { code: 1, signal: null })
  await service.log.line(/callback runs/)
})

t.test('exits with 1 when a callback throws', async t => {
  const service = fork(t, 'service', { CALLBACK: 'throws' })
  await portOf(service)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 1, signal: null })
})

for (const [what, env] of [['a callback', { CALLBACK: 'hangs' }], ["another plugin's onClose", { ON_CLOSE: 'hangs' }]] as const) {
  t.test(`exits with 1 within shutdownTimeout when ${what} hangs`, async t => {
    // The report is written 100 ms before the forced exit, which a busy machine needs.
    const service = fork(t, 'service', { ...env, OPTIONS: '{"shutdownTimeout":2000,"drainTimeout":100}' })
    await portOf(service)
    t.equal(await exitInTime(t, service, 2_000, 'SIGTERM'), 1)
    t.match(await service.log.line(/^Shutdown complete, with errors/), { report: { exitCode: 1 } })
    await service.log.line(/callback runs/)
  })
}

for (const how of ['leaves a rejection', 'throws in an immediate']) {
  for (const [what, env] of [['a callback', { CALLBACK: how }], ['an onClose hook', { ON_CLOSE: how }]] as const) {
    t.test(`the report has the uncaught error if ${what} ${how} that nothing handles`, async t => {
      const service = fork(t, 'service', env)
      await portOf(service)
      service.kill('SIGTERM')
      t.strictSame(await service.exit, { code: 1, signal: null })
      const messages = service.log.messages()
      t.match(await service.log.line(/^Shutdown complete, with errors/), { report: { errors: ['later on purpose'], exitCode: 1 } })
      t.match(messages.at(-1), /^Shutdown complete/, 'is the last line')
    })
  }
}

for (const [path, event, message] of [
  ['/throw', 'uncaughtException', 'uncaught on purpose'],
  ['/reject', 'unhandledRejection', 'unhandled on purpose'],
  ['/throw-undefined', 'uncaughtException', 'undefined']
] as const) {
  t.test(`an uncaught error (${path}) starts the same shutdown and exits with 1`, async t => {
    const service = fork(t, 'service', { ...COVERED, OPTIONS: '{"drainTimeout":800}' })
    const port = await portOf(service)
    const client = new RawClient(port).get('/slow?ms=400')
    await service.log.line(/slow request is in/)
    const culprit = new RawClient(port).get(path)
    await client.closed
    t.match(client.text, /200 OK[^]*slow$/, 'requests in flight are answered')
    culprit.socket.destroy()
    t.strictSame(await service.exit, { code: 1, signal: null })
    t.match(await service.log.line(/^Uncaught error$/), { level: 50, err: { message } })
    t.ok(service.log.messages().includes(`callback runs: ${event}`))
  })

  t.test(`an uncaught error (${path}) during the drain cuts no request, is reported, and the exit code is 1`, async t => {
    const service = fork(t, 'service')
    const port = await portOf(service)
    const client = new RawClient(port).get('/slow?ms=100&until=shutdown')
    const culprit = new RawClient(port).get(`/slow?ms=0&until=shutdown&then=${path}`)
    await eventually(() => service.log.messages(/slow request is in/).length === 2)
    service.kill('SIGTERM')
    await service.log.line(/^Uncaught error$/)
    await Promise.all([client.closed, culprit.closed])
    for (const { text } of [client, culprit]) t.match(text, /200 OK[^]*slow$/)
    t.strictSame(await service.exit, { code: 1, signal: null })
    t.match(await service.log.line(/^Shutdown complete, with errors/), { report: { reason: 'SIGTERM', completed: 2, cut: { length: 0 }, errors: [message] } })
  })
}

t.test('listens only to the listed signals', async t => {
  const service = fork(t, 'service', { OPTIONS: '{"signals":["SIGUSR2"]}' })
  await portOf(service)
  service.kill('SIGUSR2')
  t.strictSame(await service.exit, { code: 0, signal: null })
  const other = fork(t, 'service', { OPTIONS: '{"signals":["SIGUSR2"]}' })
  await portOf(other)
  other.kill('SIGTERM')
  t.strictSame(await other.exit, { code: null, signal: 'SIGTERM' })
})

t.test('removes its process listeners once closed', async t => {
  const service = fork(t, 'service', { AFTER_LISTEN: 'close' })
  t.equal((await service.log.line(/^left behind:/)).msg, 'left behind: 0')
})

t.test('an empty event loop starts a shutdown if beforeExit is listed', async t => {
  const service = fork(t, 'service', { ...COVERED, AFTER_LISTEN: 'unref', OPTIONS: '{"signals":["beforeExit"]}' })
  t.strictSame(await service.exit, { code: 0, signal: null })
  await service.log.line(/callback runs: beforeExit/)
})

t.test('an empty event loop ends the process, as without the plugin', async t => {
  const service = fork(t, 'service', { AFTER_LISTEN: 'unref' })
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.strictSame(service.log.messages(/callback runs/), [])
})

t.test('signals: false leaves the process to the application', async t => {
  const service = fork(t, 'own-signals')
  const client = new RawClient(await portOf(service)).get('/')
  t.equal((await service.log.line(/^added:/)).msg, 'added: 0')
  await service.log.line(/request is in/)
  service.kill('SIGTERM')
  await client.closed
  t.match(client.text, /200 OK[^]*served$/)
  t.strictSame(await service.exit, { code: 7, signal: null })
  t.equal((await service.log.line(/^mine:/)).msg, 'mine: 0 1')
})

t.test('adds process listeners only while listening, and once for all instances', async t => {
  const events = [...PROCESS_EVENTS, ...CRASH_SIGNALS]
  const counts = () => events.map(event => process.listenerCount(event))
  const before = counts()
  const create = async () => {
    const app = Fastify()
    await app.register(gracefulPlugin)
    await app.ready()
    t.strictSame(counts(), before)
    return app
  }
  const first = await create()
  const others = [await create(), await create()]
  await listen(first)
  const touched = counts()
  // Node turns unhandled rejections into uncaught exceptions.
  const listensTo = (event: string): boolean => (DEFAULT_EVENTS as readonly string[]).includes(event) && event !== 'unhandledRejection'
  t.strictSame(touched, events.map((event, index) => (before[index] as number) + (listensTo(event) ? 1 : 0)))
  for (const app of others) {
    await listen(app)
    t.strictSame(counts(), touched)
  }
  for (const app of others) await app.close()
  t.strictSame(counts(), touched)
  await first.close()
  t.strictSame(counts(), before)
})

t.test('two hundred instances leave no listener and cause no warning', async t => {
  const counts = () => Object.fromEntries(process.eventNames().map(name => [name, process.listenerCount(name)]))
  const before = counts()
  const warnings: Error[] = []
  const warned = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', warned)
  const apps = []
  for (let index = 0; index < 200; index++) {
    const app = Fastify()
    await app.register(gracefulPlugin)
    if (index % 2 === 0) await app.listen({ port: 0, host: '127.0.0.1' })
    else await app.ready()
    apps.push(app)
  }
  await Promise.all(apps.map(async app => { await app.close() }))
  await new Promise(resolve => { setImmediate(resolve) })
  process.off('warning', warned)
  t.strictSame(counts(), before)
  t.strictSame(warnings, [])
})

t.test('in a worker thread, errors start a shutdown, and a list with signals gets a coded error', async t => {
  const service = fork(t, 'worker-thread', COVERED)
  t.equal((await service.log.line(/^exited:/)).msg, 'exited: 1')
  t.strictSame(service.log.messages(/A worker thread receives no signals|^Uncaught error|callback runs|^error:/), [
    'error: FST_ERR_GRACEFUL_WORKER_THREAD', 'A worker thread receives no signals: let the main thread tell it when to call fastify.close()',
    'Uncaught error', 'callback runs: uncaughtException'
  ])
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: null, signal: 'SIGTERM' })
})

for (const runtime of ['bun', 'deno']) {
  t.test(`${runtime} gets a coded error at registration`, async t => {
    const { versions } = process
    t.teardown(() => { Object.defineProperty(process, 'versions', { value: versions }) })
    Object.defineProperty(process, 'versions', { value: { ...versions, [runtime]: '1.0.0' } })
    await t.rejects(async () => { await Fastify().register(gracefulPlugin) }, {
      code: 'FST_ERR_GRACEFUL_RUNTIME_UNSUPPORTED', message: `fastify-graceful needs Node.js; ${runtime} is not supported`
    })
  })
}

t.test('adds no process listeners if it is closed while it starts to listen', async t => {
  const before = process.listenerCount('SIGTERM')
  const app = Fastify()
  await app.register(gracefulPlugin)
  const listening = app.listen({ port: 0, host: '127.0.0.1' })
  await app.close()
  await listening
  t.notOk(app.server.listening)
  t.equal(process.listenerCount('SIGTERM'), before)
})

for (const [how, args] of [['the flag none', ['--unhandled-rejections=none']], ['the flag warn', ['--unhandled-rejections=warn']], ['a listener', []]] as const) {
  t.test(`an unhandled rejection that Node does not treat as an error (${how}) does not start a shutdown`, async t => {
    const service = fork(t, 'service', how === 'a listener' ? { AFTER_LISTEN: 'listen to rejections' } : {}, args)
    const port = await portOf(service)
    await new RawClient(port).get('/slow?ms=10&then=/reject', ['Connection: close']).closed
    const client = new RawClient(port).get('/slow?ms=300', ['Connection: close'])
    await client.closed
    t.match(client.text, /200 OK/)
    t.strictSame(service.log.messages(/shutting down/i), [])
    service.kill('SIGTERM')
    t.match(await service.exit, { code: 0 })
  })
}

t.test('unhandledRejection, listed without uncaughtException, starts a shutdown', async t => {
  const service = fork(t, 'service', { ...COVERED, OPTIONS: '{"signals":["unhandledRejection"]}' })
  new RawClient(await portOf(service)).get('/slow?ms=10&then=/reject')
  t.match(await service.log.line(/^Graceful shutdown|^Shutdown complete/), { report: { reason: 'unhandledRejection' } })
  t.match(await service.exit, { code: 1 })
})
