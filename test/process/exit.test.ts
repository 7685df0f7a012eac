// What ends the process, when, and with which code.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { EXIT_FLUSH } from '../../lib/times.ts'
import { COVERED, exitInTime, fork, freePort, portOf, RawClient, runNode } from '../helpers.ts'

/** The second instance of the program. */
const OTHERS = {
  'does not listen': { OTHER_LISTENS: 'false' },
  'handles no signals': { OTHER: '{ "signals": false }' },
  'handles no signals and does not listen': { OTHER: '{ "signals": false }', OTHER_LISTENS: 'false' }
}

interface Settings {
  /** Whether a request is in flight that must be cut. */
  cuts?: boolean
  options?: object
  other?: Record<string, string>
}

interface End {
  service: Program
  code: number | null
  signal: NodeJS.Signals | null
  said: string[]
}

/** Sends SIGTERM, with or without a request that must be cut, and returns how the process ended. */
async function endOf (t: Test, how: string, { cuts = false, options = {}, other = {} }: Settings = {}): Promise<End> {
  const service = fork(t, 'own-exit', { ...cuts && COVERED, HOW: how, OPTIONS: JSON.stringify({ drainTimeout: 200, ...options }), ...other })
  const port = await portOf(service)
  await service.log.line(/^ready$/)
  if (cuts) {
    new RawClient(port).get('/stuck')
    await service.log.line(/stuck request is in/)
  }
  service.kill('SIGTERM')
  const { code, signal } = await service.exit
  return { service, code, signal, said: service.log.messages(/^(?:flushed|cleaned up|beforeExit .*|exit .*)$/) }
}

for (const how of ['closes all', 'closes one', 'closes the server', 'closes with a kept close', 'calls shutdown()', 'aborts its listen signal and closes']) {
  t.test(`a signal handler that ${how} and then flushes is not cut off, and the process ends by itself`, async t => {
    t.match(await endOf(t, how), { code: 0, signal: null, said: ['flushed', 'beforeExit 0', 'exit 0 undefined'] })
  })
}

t.test('a signal handler that closes the server during the drain, and then flushes, is not cut off, but the exit code is that of the shutdown', async t => {
  const end = await endOf(t, 'closes the server during the drain', { cuts: true })
  t.match(end, { code: 1, signal: null, said: ['flushed', 'beforeExit 1', 'exit 1 1'] })
})

t.test('a signal handler that exits in the callback of server.close() does not cut off the cleanup', async t => {
  t.match(await endOf(t, 'exits when the server is closed'), { code: 0, signal: null, said: ['cleaned up', 'exit 0 0'] })
  const { said, ...end } = await endOf(t, 'exits when the server is closed', { cuts: true })
  t.match(end, { code: 1, signal: null })
  t.equal(said[0], 'cleaned up')
})

t.test('nor does one that calls server.close() while the instance closes, as http-terminator does', async t => {
  const end = await endOf(t, 'exits when the server is closed, and calls it while closing')
  t.match(end, { code: 0, signal: null, said: ['cleaned up', 'exit 0 0'] })
})

t.test('a signal handler that closes a shared listener during the drain, and then flushes, is not cut off', async t => {
  const end = await endOf(t, 'closes the server during the drain', { cuts: true, other: { REUSE: 'true' } })
  t.match(end, { code: 1, signal: null, said: ['flushed', 'beforeExit 1', 'exit 1 1'] })
})

t.test('on localhost, with two listeners, code that closes the server decides when the process exits; otherwise, the plugin does', async t => {
  const other = { HOST: 'localhost', PORT: String(await freePort(['127.0.0.1', '::1'])) }
  t.match(await endOf(t, 'closes the server', { other }), { code: 0, signal: null, said: ['flushed', 'beforeExit 0', 'exit 0 undefined'] })
  t.match(await endOf(t, 'does nothing', { other }), { code: 0, signal: null, said: ['exit 0 undefined'] })
})

t.test('a signal handler that only aborts the signal given to listen() leaves the exit to the plugin', async t => {
  t.match(await endOf(t, 'aborts its listen signal'), { code: 0, signal: null, said: ['exit 0 undefined'] })
  t.match(await endOf(t, 'aborts its listen signal', { cuts: true }), { code: 1, signal: null, said: ['exit 1 1'] })
})

t.test('an onClose hook that fails after listen() was aborted is reported once and is not an uncaught error', async t => {
  const { service, ...end } = await endOf(t, 'aborts its listen signal, and a hook fails')
  t.match(end, { code: 1, signal: null, said: ['exit 1 1'] })
  t.match(await service.log.line(/^Shutdown complete, with errors/), { report: { errors: ['onClose on purpose'] } })
  t.strictSame(service.log.messages(/^Uncaught error/), [])
})

t.test('if a request was cut, a process that ends by itself exits with 1, and all exit listeners see that', async t => {
  t.match(await endOf(t, 'closes all', { cuts: true }), { code: 1, signal: null, said: ['flushed', 'beforeExit 1', 'exit 1 1'] })
})

t.test('if a request was cut, the exit code is 1 even if the caller of close() exits with 0', async t => {
  t.match(await endOf(t, 'exits with 0', { cuts: true }), { code: 1, signal: null, said: ['flushed', 'exit 0 1'] })
})

t.test('if the caller of close() has closed all instances, a new one that starts to listen shuts down at once and says why', async t => {
  const { service, ...end } = await endOf(t, 'closes all and listens anew')
  t.match(end, { code: 0, signal: null, said: ['flushed', 'beforeExit 0', 'exit 0 undefined'] })
  t.match(await service.log.line(/^The process is shutting down \(SIGTERM\), so an instance that starts to listen now/), { level: 40 })
})

t.test('shutdownTimeout ends a process that the caller of close() does not end', async t => {
  const { service, ...end } = await endOf(t, 'never exits', { options: { shutdownTimeout: 1_500 } })
  t.match(end, { code: 1, signal: null, said: ['flushed', 'exit 1 1'] })
  await service.log.line(/has not ended within shutdownTimeout/)
  t.strictSame(service.log.messages(/before the shutdown is complete/), [])
})

t.test('code that closes the instance and sends itself the signal again dies by that signal, as without the plugin', async t => {
  t.match(await endOf(t, 'dies by the signal, as NestJS does'), { code: null, signal: 'SIGTERM', said: ['flushed'] })
  t.match(await endOf(t, 'dies by the signal at once'), { code: null, signal: 'SIGTERM', said: { length: 0 } })
})

t.test('a callback that closes another instance leaves the exit to the plugin', async t => {
  t.match(await endOf(t, 'closes another in a callback'), { code: 0, signal: null, said: ['exit 0 undefined'] })
})

t.test('exit listeners see the exit code of a shutdown that failed', async t => {
  t.match(await endOf(t, 'fails'), { code: 1, signal: null, said: ['exit 1 1'] })
})

t.test('an exit code that the application sets is kept', async t => {
  t.match(await endOf(t, 'sets exitCode'), { code: 3, signal: null, said: ['exit 3 3'] })
  t.match(await endOf(t, "sets exitCode to '0'", { cuts: true }), { code: 1, signal: null, said: ['exit 1 1'] })
})

t.test('an instance that was closed before the signal and failed decides the exit code', async t => {
  t.match(await endOf(t, 'has closed another one'), { code: 1, signal: null, said: ['exit 1 1'] })
})

for (const [what, other] of Object.entries(OTHERS)) {
  t.test(`a signal handler that closes an instance that ${what} is not cut off by the instances that do`, async t => {
    t.match(await endOf(t, 'closes the other with its job', { other, options: { drainTimeout: 5_000 } }), {
      code: 0, signal: null, said: ['cleaned up', 'flushed', 'beforeExit 0', 'exit 0 undefined']
    })
  })

  t.test(`an instance that ${what}, and that was closed before the signal and failed, decides the exit code`, async t => {
    t.match(await endOf(t, 'has closed another one', { other }), { code: 1, signal: null, said: ['exit 1 1'] })
  })

  t.test(`an instance that ${what}, and that a callback closes and fails, decides the exit code`, async t => {
    t.match(await endOf(t, 'closes a failing one in a callback', { other }), { code: 1, signal: null, said: ['exit 1 1'] })
  })
}

t.test('if other code ends the process during a shutdown that code has started, the requests that are lost are named', async t => {
  const end = await endOf(t, 'exits with 0 while it closes', { cuts: true, options: { drainTimeout: 5_000, signals: false } })
  t.match(end, { code: 0, signal: null, said: ['flushed', 'exit 0 0'] })
  await end.service.log.line(/^Request cut/)
  await end.service.log.line(/^The process exits before the shutdown is complete/)
})

t.test('the code that closes an instance decides when the process exits, also if that began to listen in a callback of another one', async t => {
  const service = fork(t, 'listening-inside')
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.strictSame(service.log.messages(/^flushed$/), ['flushed'])
})

/** Code that closes `app`, and throws an error. */
const throws = {
  'the callback of close()': "app.close(() => { throw new Error('thrown') })",
  'the callback of close(), with an error': "app.close(error => { throw new Error('thrown') })",
  'the callback of close(), with done': "app.close((error, instance, done) => { throw new Error('thrown') })",
  'an async callback of close()': "app.close(async () => { throw new Error('thrown') })",
  'an async callback of close(), with done': "app.close(async (error, instance, done) => { throw new Error('thrown') })",
  'an onClose hook that has called done()': "app.addHook('onClose', (_app, done) => { done(); throw new Error('thrown') }); await app.ready(); await app.close()"
}

for (const [what, code] of Object.entries(throws)) {
  t.test(`an error that ${what} throws ends the process, or is ignored, as with Fastify alone`, async t => {
    const outcomes = await Promise.all([false, true].map(async register => {
      const program = runNode(t, ['--input-type=module', '--eval', `
        import Fastify from 'fastify'
        import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
        const app = Fastify()
        ${register ? 'await app.register(gracefulPlugin)' : ''}
        ${code.includes('addHook') ? '' : 'await app.ready()'}
        ${code}`], COVERED)
      const { code: exitCode } = await program.exit
      return { exitCode, isTold: program.output().includes('Error: thrown') }
    }))
    t.strictSame(outcomes[1], outcomes[0])
  })
}

/** A program with a handler that takes 300 ms, and its own code before it listens. */
const programWith = (code: string, options = '') => `
  import Fastify from 'fastify'
  import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
  const app = Fastify({ logger: true })
  await app.register(gracefulPlugin, ${options})
  app.registerShutdownCallback(() => { app.log.info('cleaned up') })
  app.get('/', async () => {
    app.log.info('request is in')
    await new Promise(resolve => { setTimeout(resolve, 300) })
    return 'answer'
  })
  ${code}
  await app.listen({ port: 0, host: '127.0.0.1' })`

for (const [event, code, how] of [['exit', 0, 'SIGTERM'], ['uncaughtException', 0, 'SIGTERM'], ['SIGTERM', 0, 'SIGINT']] as const) {
  t.test(`a newListener listener that throws for ${event} is logged, and keeps the instance neither from listening nor from shutting down`, async t => {
    const guard = `process.on('newListener', event => { if (event === '${event}') throw new Error('no listeners, please') })`
    const service = runNode(t, ['--input-type=module', '--eval', programWith(guard)], COVERED)
    const client = new RawClient(await portOf(service)).get('/', ['Connection: close'])
    await service.log.line(/^request is in$/)
    service.kill(how)
    await client.closed
    t.match(client.text, /200 OK[^]*answer$/)
    t.strictSame(await service.exit, { code, signal: null })
    t.match(await service.log.line(new RegExp(`^Cannot listen to the process event ${event}$`)), { err: { message: 'no listeners, please' } })
    t.strictSame(service.log.messages(/^cleaned up$/), ['cleaned up'])
  })
}

for (const options of ['', "{ signals: ['SIGTERM'] }"]) {
  t.test(`an exit listener of the application that throws makes the exit code 1; options: ${options}`, async t => {
    const service = runNode(t, ['--input-type=module', '--eval', programWith("process.once('exit', () => { throw new Error('flush failed') })", options)], COVERED)
    await portOf(service)
    service.kill('SIGTERM')
    t.strictSame(await service.exit, { code: 1, signal: null })
    if (options === '') t.match(await service.log.line(/^Uncaught error$/), { err: { message: 'flush failed' } })
    else t.match(service.output(), /Error: flush failed/)
  })
}

/** In a timer: a hook may catch what is thrown. */
const onListen = (code: string) => `app.addHook('onListen', async () => { setTimeout(() => { ${code} }, 10) })`

const THROWS = "process.on('exit', () => { throw new Error('flush failed') }); setInterval(() => {}, 1_000)"

for (const [what, { code, exitCode, signals = [] }] of Object.entries<{ code: string, exitCode: number, signals?: NodeJS.Signals[] }>({
  'after SIGTERM': { code: '', exitCode: 1, signals: ['SIGTERM'] },
  'after SIGTERM, in an application that ignores rejections': {
    code: "process.on('unhandledRejection', () => {})", exitCode: 1, signals: ['SIGTERM']
  },
  'after a second signal': { code: 'app.registerShutdownCallback(() => new Promise(() => {}))', exitCode: 1, signals: ['SIGTERM', 'SIGINT'] },
  'after process.exit(4) of the application, also if the listener is called first': {
    code: `${onListen("process.prependListener('exit', () => { throw new Error('flush failed') })")}; ${onListen('process.exit(4)')}`, exitCode: 4
  },
  'after process.exit(4) of the application': { code: onListen('process.exit(4)'), exitCode: 4 },
  'after process.exit(0) of the application': { code: onListen('process.exit(0)'), exitCode: 0 },
  'after process.exit(4) in a timer during the shutdown': {
    code: 'app.registerShutdownCallback(() => new Promise(() => { setTimeout(() => { process.exit(4) }, 50) }))',
    exitCode: 4,
    signals: ['SIGTERM']
  },
  'after process.exit(0) during the shutdown, also if the listener is called first': {
    code: `app.registerShutdownCallback(() => new Promise(() => {
      process.prependListener('exit', () => { throw new Error('flush failed') })
      setTimeout(() => { process.exit(0) }, 50)
    }))`,
    exitCode: 1,
    signals: ['SIGTERM']
  }
})) {
  t.test(`an exit listener of the application that throws does not stop the exit ${what}`, async t => {
    const service = runNode(t, ['--input-type=module', '--eval', programWith(`${code}\n${THROWS}`)], COVERED)
    await portOf(service)
    const start = performance.now()
    for (const signal of signals) {
      service.kill(signal)
      await service.log.line(new RegExp(`${signal} received|^Graceful shutdown complete|Second signal`))
    }
    t.strictSame(await service.exit, { code: exitCode, signal: null })
    t.ok(performance.now() - start < 10_000, 'long before shutdownTimeout')
    t.match(service.output(), /flush failed/)
  })
}

for (const [what, code] of Object.entries({
  'calls process.exit(0) in a listener for the second signal, added after that of the plugin':
    "app.addHook('onListen', async () => { process.on('SIGINT', () => { process.exit(0) }) })",
  'calls process.exit(0) in an onResponse hook of a request that it cuts': "app.addHook('onResponse', async () => { process.exit(0) })",
  'sets process.exitCode in a listener for the second signal, added after that of the plugin':
    "app.addHook('onListen', async () => { process.on('SIGINT', () => { process.exitCode = 143 }) })"
})) {
  t.test(`a forced exit exits with 1, although the application ${what}`, async t => {
    const route = "app.get('/hang', async () => { console.log(JSON.stringify({ level: 30, msg: 'entered' })); await new Promise(() => {}) })"
    const service = runNode(t, ['--input-type=module', '--eval', programWith(`${code}\n${route}`)], COVERED)
    const client = new RawClient(await portOf(service)).get('/hang')
    await service.log.line(/^entered/)
    service.kill('SIGTERM')
    await service.log.line(/^Waiting for 1 in-flight request/)
    service.kill('SIGINT')
    t.strictSame(await service.exit, { code: 1, signal: null })
    await client.closed
  })
}

/** Other code replaces a property of the response with a getter that throws. */
const BREAKS = `
  app.get('/odd', (_request, reply) => {
    Object.defineProperty(reply.raw, 'writableEnded', { get () { throw new Error('odd') } })
    app.log.info('odd is in')
  })
  app.get('/stuck', () => {
    app.log.info('stuck is in')
    return new Promise(() => {})
  })`

for (const [by, { signals, code }] of Object.entries({
  'a second signal': { signals: ['SIGTERM', 'SIGINT'], code: 'FST_ERR_GRACEFUL_EXIT' },
  'the drain timeout': { signals: ['SIGTERM'], code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT' }
} as const)) {
  t.test(`a response that throws does not keep ${by} from answering and naming the others, and from ending the process`, async t => {
    const service = runNode(t, ['--input-type=module', '--eval', programWith(BREAKS, '{ drainTimeout: 1_000 }')], COVERED)
    const port = await portOf(service)
    new RawClient(port).get('/odd')
    await service.log.line(/^odd is in/)
    const stuck = new RawClient(port).get('/stuck')
    await service.log.line(/^stuck is in/)
    const start = performance.now()
    for (const signal of signals) {
      service.kill(signal)
      await service.log.line(new RegExp(`^Waiting for 2 in-flight|${signal}: exiting`))
    }
    t.strictSame(await service.exit, { code: 1, signal: null })
    t.ok(performance.now() - start < 10_000, 'long before shutdownTimeout')
    await stuck.closed
    t.match(stuck.text, code)
    const named = service.log.lines.filter(line => line['code'] === code).map(({ route }) => route)
    t.strictSame(new Set(named), new Set(['/odd', '/stuck']))
  })
}

t.test('a forced exit names a response that is being sent only if its client does not get all of it', async t => {
  const route = "app.get('/large', async () => { setImmediate(() => { process.emit('SIGINT') }); return Buffer.alloc(8_000_000) })"
  const service = runNode(t, ['--input-type=module', '--eval', programWith(route, '{ shutdownDelay: 20_000 }')], COVERED)
  const port = await portOf(service)
  service.kill('SIGTERM')
  await service.log.line(/still serving/)
  const client = new RawClient(port).get('/large')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  const isNamed = service.log.messages(/^Request cut/).length > 0
  if (client.text.length < 8_000_000) {
    t.ok(isNamed)
    return
  }
  // On a busy machine, it may be named because it takes longer, and be sent while the log is written.
  const [start, end] = await Promise.all([service.log.line(/^Second signal/), service.log.line(/^The process exits/)])
  t.ok(!isNamed || Number(end['time']) - Number(start['time']) >= EXIT_FLUSH)
})

t.test('an exit listener of the application that throws makes the exit code of a process that ends by itself 1', async t => {
  const code = "app.server.unref(); process.on('exit', () => { throw new Error('flush failed') })"
  const service = runNode(t, ['--input-type=module', '--eval', programWith(code)], COVERED)
  t.strictSame(await service.exit, { code: 1, signal: null })
  // The lines of an asynchronous log are no longer written.
  t.match(service.output(), /^Error: flush failed\n {4}at /m)
})

t.test('other code that emits the event exit does not end the process', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', programWith("app.get('/emit', () => process.emit('exit', 3))")], COVERED)
  const port = await portOf(service)
  const client = new RawClient(port).get('/emit')
  await client.until(/true$/)
  await client.get('/', ['Connection: close']).closed
  t.match(client.text, /200 OK[^]*answer$/)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
})

t.test('an error that is thrown as other code emits the event exit starts the shutdown, as any other uncaught error', async t => {
  const emits = `process.on('exit', code => { if (code === 3) throw new Error('flush failed') })
    app.get('/emit', async () => { setTimeout(() => { process.emit('exit', 3) }) })`
  const service = runNode(t, ['--input-type=module', '--eval', programWith(emits)], COVERED)
  const client = new RawClient(await portOf(service)).get('/')
  await service.log.line(/^request is in$/)
  new RawClient(await portOf(service)).get('/emit')
  await client.closed
  t.match(client.text, /200 OK[^]*answer$/)
  t.strictSame(await service.exit, { code: 1, signal: null })
  t.strictSame(service.log.messages(/^cleaned up$/), ['cleaned up'])
})

t.test('a plugin that has replaced server.close(), and closes the server later, from an event, does not keep the process alive', async t => {
  const replaces = `const queue = []
    setInterval(() => { queue.shift()?.() }, 20)
    const { close } = app.server
    app.server.close = callback => {
      queue.push(() => { close.call(app.server, callback) })
      return app.server
    }`
  const service = runNode(t, ['--input-type=module', '--eval', programWith(replaces)], COVERED)
  await portOf(service)
  t.equal(await exitInTime(t, service, 10_000, 'SIGTERM'), 0)
})
