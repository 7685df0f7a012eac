// The log at the end: no important line is lost, the report is the last line, and a reader that has gone does not delay the exit.

import t from 'tap'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, createWriteStream, existsSync, mkdtempSync, open, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { build } from 'esbuild'
import Fastify from 'fastify'
import { destination, pino } from 'pino'
import gracefulPlugin from '../../index.ts'
import { LOG_FLUSH, SIGNAL_COPY } from '../../lib/times.ts'
import { commandOf, COVERED, eventually, fork, listen, LONG, portOf, RawClient, runNode } from '../helpers.ts'

const NO_DEV_FULL = !existsSync('/dev/full') && 'There is no /dev/full'

async function withoutLogger (t: Test, LOGGER: string): Promise<string> {
  const service = fork(t, 'no-logger', { ...['no logger', 'a logger that throws'].includes(LOGGER) && COVERED, LOGGER })
  new RawClient(await portOf(service)).get('/stuck')
  t.strictSame(await service.exit, { code: 1, signal: null })
  return service.output()
}

for (const logger of ['no logger', 'logger: false', 'level silent', 'level fatal', 'a logger that throws']) {
  t.test(`with ${logger}, what must not be lost goes to stderr`, async t => {
    const output = await withoutLogger(t, logger)
    const [, entry = ''] = /^Request cut: The request was still in flight .*? (\{.*\})$/m.exec(output) ?? []
    t.match(JSON.parse(entry), { kind: 'request', method: 'GET', route: '/stuck', url: '/stuck', reqId: /./ })
    t.match(output, /^Background work cut: stuck work .*$/m)
    t.match(output, /^Shutdown callback "cleanup" failed after \d+ms: callback on purpose$/m)
    t.match(output, /^Shutdown complete, with errors/m)
    if (logger === 'a logger that throws') t.match(output, /^Uncaught error: uncaught on purpose$/m)
    else {
      t.match(output, /^Error: uncaught on purpose\n {4}at .*no-logger\.(?:ts|mjs)[^]*cause on purpose/m, 'with its stack')
      t.equal(output.match(/^Error: uncaught on purpose$/gm)?.length, 1, 'once, although there are two instances')
    }
    t.notMatch(output, 'Waiting for')
  })
}

for (const options of ['', ', { logger: { level: "silent" } }']) {
  t.test(`in a minified bundle, the cause of a crash goes to stderr: Fastify(${options.slice(2)})`, async t => {
    const { outputFiles } = await build({
      stdin: {
        contents: `
          import Fastify from 'fastify'
          import gracefulPlugin from './index.ts'
          const app = Fastify(${options.slice(2)})
          app.register(gracefulPlugin)
          app.listen({ port: 0, host: '127.0.0.1' }).then(() => { setImmediate(() => { throw new Error('on purpose') }) })`,
        resolveDir: new URL('../..', import.meta.url).pathname
      },
      bundle: true, minify: true, platform: 'node', format: 'cjs', write: false, logLevel: 'error'
    })
    const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
    t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
    const path = join(directory, 'bundle.cjs')
    writeFileSync(path, outputFiles.map(({ text }) => text).join(''))
    const program = runNode(t, [path], {}, [])
    t.match(await program.exit, { code: 1 })
    t.match(program.output(), /^Error: on purpose$/m)
  })
}

/** Runs a service that logs much while it shuts down, and returns its log. */
async function logOfExit (t: Test, isFile: boolean): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  const path = join(directory, 'log')
  const stdout = isFile ? openSync(path, 'w') : 'pipe'
  const child = spawn('env', ['-u', 'NODE_OPTIONS', ...commandOf('many-lines')], { stdio: ['ignore', stdout, 'inherit'] })
  let log = ''
  child.stdout?.on('data', (chunk: Buffer) => { log += chunk.toString() })
  t.strictSame(await once(child, 'close'), [0, null])
  return isFile ? readFileSync(path, 'utf8') : log
}

/** A line that is lost is lost now and then. */
const EXITS = LONG ? 50 : 3

for (const target of ['a pipe', 'a file']) {
  t.test(`the report is the last line of a log to ${target}, and no line is lost`, async t => {
    for (let round = 0; round < EXITS; round++) {
      const lines = (await logOfExit(t, target === 'a file')).trimEnd().split('\n').map(line => (JSON.parse(line) as { msg: string }).msg)
      t.equal(lines.at(-1), 'Graceful shutdown complete')
      t.equal(lines.filter(line => line === 'one of many').length, 300)
    }
  })
}

t.test('the report is the last line of the log if the process has been stopped, and the thread that writes it is busy', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  const service = fork(t, 'busy-pool', { FIFO: join(directory, 'fifo'), BUSY: String(2 * LOG_FLUSH), UV_THREADPOOL_SIZE: '1' })
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.match(service.output(), /before the report[^]*Graceful shutdown complete"\}\n$/)
})

t.test('the wait for the log has a limit, also in a busy process', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  const fifo = join(directory, 'fifo')
  execFileSync('mkfifo', [fifo])
  const app = Fastify({ logger: { stream: createWriteStream(join(directory, 'log')) } })
  await app.register(gracefulPlugin)
  await app.ready()
  // Looks like a write that does not end.
  const opened = new Promise<void>(resolve => {
    open(fifo, 'r', (_error, descriptor) => {
      closeSync(descriptor)
      resolve()
    })
  })
  // Whatever happens: a thread waits until the other end is opened.
  t.teardown(async () => {
    closeSync(openSync(fifo, 'w'))
    await opened
  })
  const busy = setInterval(() => { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20) }, 1)
  const start = performance.now()
  await app.gracefulShutdown.shutdown()
  const time = performance.now() - start
  clearInterval(busy)
  // With 20 ms a turn, LOG_FLUSH turns would take 20 times as long.
  t.ok(time > LOG_FLUSH / 2 && time < 10 * LOG_FLUSH, `took ${Math.round(time)}ms`)
})

for (const [what, env] of [
  ['a failed callback', { CALLBACK: 'throws' }],
  ['a second signal', { CALLBACK: 'hangs' }]
] as const) {
  t.test(`the process ends if the first lines after its log's reader has gone are those of ${what}`, async t => {
    const service = fork(t, 'service', { ...env, LOG_LEVEL: 'warn', OPTIONS: '{"shutdownTimeout":20000,"drainTimeout":100}' })
    await service.log.line(/^ready$/)
    service.stopReading()
    service.kill('SIGTERM')
    if (what === 'a second signal') {
      await sleep(2 * SIGNAL_COPY)
      service.kill('SIGINT')
    }
    t.strictSame(await service.exit, { code: 1, signal: null })
  })
}

t.test('the process ends at shutdownTimeout if that is what the first lines are about', async t => {
  const service = fork(t, 'service', { LOG_LEVEL: 'warn', AFTER_LISTEN: 'close on SIGTERM', OPTIONS: '{"shutdownTimeout":1000,"drainTimeout":100}' })
  await service.log.line(/^ready$/)
  service.stopReading()
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 1, signal: null })
})

function hasExited (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

/** A program that holds requests to `/held`, and fills the pipe of its log at a request to `/fill`. */
const filling = (shutdownTimeout: number, code = '') => `
  import Fastify from 'fastify'
  import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
  const app = Fastify({ logger: true })
  await app.register(gracefulPlugin, { shutdownTimeout: ${shutdownTimeout} })
  app.get('/held', () => new Promise(() => {}))
  app.get('/fill', async ({ log }) => {
    for (let line = 0; line < 2_000; line++) log.info({ text: 'x'.repeat(4_000) }, 'one of many')
    return 'filled'
  })
  ${code}
  await app.listen({ port: 0, host: '127.0.0.1' })`

/** Reads a little of the log now and then, until the process has exited. */
async function readSlowly ({ pauseReading, pid }: Program): Promise<void> {
  const resume = pauseReading()
  while (!hasExited(pid)) {
    resume()
    await sleep(1)
    pauseReading()
    await sleep(LOG_FLUSH / 4)
  }
}

for (const [what, limit, signals] of [
  ['at shutdownTimeout', 2_000, ['SIGTERM']],
  ['at a second signal', 60_000, ['SIGTERM', 'SIGINT']]
] as const) for (const isRead of [false, true]) {
  t.test(`the process ends ${what} if its log is a full pipe ${isRead ? 'with a slow reader' : 'that nothing reads'}`, async t => {
    const service = runNode(t, ['--input-type=module', '--eval', filling(limit)], COVERED)
    const port = await portOf(service)
    const resume = service.pauseReading()
    if (signals.length > 1) new RawClient(port).get('/held')
    await new RawClient(port).get('/fill').until(/filled/)
    for (const signal of signals) {
      service.kill(signal)
      await sleep(2 * SIGNAL_COPY)
    }
    const start = performance.now()
    if (isRead) await readSlowly(service)
    else await eventually(() => hasExited(service.pid), 30_000)
    t.ok(performance.now() - start < 10_000, 'sooner than it can be read')
    resume()
    t.strictSame(await service.exit, { code: 1, signal: null })
    t.ok(service.log.messages(/^one of many$/).length < 2_000)
  })
}

t.test('no line of the log is lost if it is a full pipe that is read again after a pause', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000)], COVERED)
  const port = await portOf(service)
  const resume = service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  service.kill('SIGTERM')
  await sleep(2 * LOG_FLUSH)
  resume()
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.equal(service.log.messages().at(-1), 'Graceful shutdown complete')
  t.equal(service.log.messages(/^one of many$/).length, 2_000)
})

t.test('the process ends at shutdownTimeout if the log of an instance that is closed is a full pipe', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000, `
    const other = Fastify()
    await other.register(gracefulPlugin, { shutdownTimeout: 2_000 })
    app.get('/close', async () => {
      await other.listen({ port: 0, host: '127.0.0.1' })
      void app.close()
    })`)], COVERED)
  const port = await portOf(service)
  const resume = service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  await new RawClient(port).get('/close').closed
  // Until the instance is closed.
  await sleep(2 * LOG_FLUSH)
  service.kill('SIGTERM')
  await eventually(() => hasExited(service.pid), 30_000)
  resume()
  t.strictSame(await service.exit, { code: 1, signal: null })
})

t.test('a log that was not read while another instance closed is not dropped at the exit', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000, `
    const other = Fastify({ loggerInstance: app.log })
    await other.register(gracefulPlugin)
    app.get('/close', async () => {
      // No more lines, so that nothing waits for the log at the exit.
      app.log.level = 'warn'
      await other.close()
    })
    process.on('exit', () => { app.log.warn('bye') })`)], COVERED)
  const port = await portOf(service)
  const resume = service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  await new RawClient(port).get('/close', ['Connection: close']).closed
  resume()
  await eventually(() => service.log.messages(/^one of many$/).length === 2_000)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.equal(service.log.messages().at(-1), 'bye')
})

t.test('a log that is a full pipe and loses its reader does not delay the exit', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000)], COVERED)
  const port = await portOf(service)
  service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  service.kill('SIGTERM')
  await sleep(2 * LOG_FLUSH)
  const start = performance.now()
  service.stopReading()
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.ok(performance.now() - start < 30_000, 'long before shutdownTimeout')
})

t.test('a log that has failed once and is reopened is not dropped at the exit', { skip: NO_DEV_FULL }, async t => {
  const file = join(t.testdir({}), 'log')
  const service = runNode(t, ['--input-type=module', '--eval', `
    import { once } from 'node:events'
    import Fastify from 'fastify'
    import pino from 'pino'
    import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
    const destination = pino.destination({ dest: '/dev/full', sync: false })
    destination.on('error', () => {})
    await once(destination, 'ready')
    const create = async () => {
      const app = Fastify({ loggerInstance: pino(destination) })
      await app.register(gracefulPlugin)
      await app.listen({ port: 0, host: '127.0.0.1' })
      return app
    }
    const [first, second] = [await create(), await create()]
    await first.close()
    destination.reopen(${JSON.stringify(file)})
    await once(destination, 'ready')
    second.log.info('written')
    await once(destination, 'drain')
    // No more lines, so that nothing waits for the log at the exit.
    second.log.level = 'warn'
    process.on('exit', () => { second.log.warn('bye') })
    process.kill(process.pid, 'SIGTERM')`], COVERED)
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.match(readFileSync(file, 'utf8'), /"written"[^]*"bye"/)
})

t.test('an exit listener can write to a log that is dropped', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(1_000, `
    const { writeSync } = await import('node:fs')
    const destination = app.log[Object.getOwnPropertySymbols(app.log).find(s => s.description === 'pino.stream')]
    process.on('exit', () => {
      app.log.info('bye')
      destination.flushSync()
      destination.end()
      writeSync(2, 'the last listener')
    })`)], COVERED)
  const port = await portOf(service)
  const resume = service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  service.kill('SIGTERM')
  await eventually(() => hasExited(service.pid), 30_000)
  resume()
  t.strictSame(await service.exit, { code: 1, signal: null })
  t.match(service.output(), /the last listener/)
})

t.test('a pipe that fills again while the exit waits for another one loses no line', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000, `
    const { default: pino } = await import('pino')
    const other = Fastify({ loggerInstance: pino(pino.destination({ dest: 2, sync: false })) })
    await other.register(gracefulPlugin)
    const fill = (log, msg) => { for (let line = 0; line < 2_000; line++) log.info({ text: 'x'.repeat(4_000) }, msg) }
    const destination = app.log[Object.getOwnPropertySymbols(app.log).find(s => s.description === 'pino.stream')]
    app.get('/both', async () => {
      await other.listen({ port: 0, host: '127.0.0.1' })
      fill(app.log, 'one of many')
      fill(other.log, 'one of the other')
      destination.once('drain', () => { fill(app.log, 'one of many more') })
      return 'filled'
    })`)], COVERED)
  const port = await portOf(service)
  const [resume, resumeOther] = [service.pauseReading(), service.pauseReading('stderr')]
  await new RawClient(port).get('/both').until(/filled/)
  service.kill('SIGTERM')
  await sleep(4 * LOG_FLUSH)
  resume()
  await service.log.line(/^one of many more$/)
  const resumeAgain = service.pauseReading()
  await sleep(LOG_FLUSH)
  resumeOther()
  await eventually(() => service.log.messages(/^one of the other$/).length === 2_000)
  resumeAgain()
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.equal(service.log.messages(/^one of many more$/).length, 2_000)
})

t.test('a log that has lost its reader neither delays the exit nor changes its code', async t => {
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000, "app.get('/line', async ({ log }) => { log.info('a line') })")], COVERED)
  const port = await portOf(service)
  service.stopReading()
  await new RawClient(port).get('/line', ['Connection: close']).closed
  const start = performance.now()
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.ok(performance.now() - start < 30_000, 'long before shutdownTimeout')
})

t.test('a log that an onClose hook ends does not delay the exit, and its lines are written once it is read again', async t => {
  const end = "app.addHook('onClose', async () => { app.log[Object.getOwnPropertySymbols(app.log).find(s => s.description === 'pino.stream')].end() })"
  const service = runNode(t, ['--input-type=module', '--eval', filling(60_000, end)], COVERED)
  const port = await portOf(service)
  const resume = service.pauseReading()
  await new RawClient(port).get('/fill').until(/filled/)
  service.kill('SIGTERM')
  await sleep(2 * LOG_FLUSH)
  const start = performance.now()
  resume()
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.ok(performance.now() - start < 30_000, 'long before shutdownTimeout')
  t.equal(service.log.messages(/^one of many$/).length, 2_000)
})

t.test('the process ends although its log cannot be written', { skip: NO_DEV_FULL }, async t => {
  const service = fork(t, 'broken-log', { ...COVERED, FAULT: 'is full', WHEN: 'before the signal' })
  const port = await portOf(service)
  // It takes 300 ms after the signal. Meanwhile, the write fails.
  new RawClient(port).get('/held')
  await service.log.line(/^held is in/)
  await new RawClient(port).get('/break').until(/broken/)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 1, signal: null })
})

t.test('many instances that share a logger cause no warning, and leave no listener on its destination', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  const stream = destination({ dest: join(directory, 'log'), sync: false })
  const counts = () => ['error', 'drain'].map(event => stream.listenerCount(event))
  const before = counts()
  const warnings: Error[] = []
  const note = (warning: Error) => { warnings.push(warning) }
  process.on('warning', note)
  t.teardown(() => { process.off('warning', note) })
  const apps = await Promise.all(Array.from({ length: 20 }, async () => {
    const app = Fastify({ loggerInstance: pino(stream) })
    await app.register(gracefulPlugin)
    await listen(app as never)
    return app
  }))
  await Promise.all(apps.map(async app => { await app.close() }))
  t.strictSame(counts(), before)
  t.strictSame(warnings, [])
})

for (const level of ['info', undefined]) {
  t.test(`a logger with one function for all levels, and level ${level}, gets the lines of the shutdown`, async t => {
    const lines: unknown[] = []
    const write = (...args: unknown[]): void => { lines.push(args.at(-1)) }
    const levels = Object.fromEntries(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'].map(name => [name, write]))
    const loggerInstance = { level, ...levels, child: () => loggerInstance }
    const app = Fastify({ loggerInstance } as unknown as FastifyServerOptions) as unknown as FastifyInstance
    await app.register(gracefulPlugin)
    await app.close()
    t.ok(lines.includes('Graceful shutdown complete'))
  })
}

t.test('an uncaught error goes to stderr if the transport of the log cannot start', async t => {
  const program = runNode(t, ['--input-type=module', '--eval', `
    import Fastify from 'fastify'
    import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
    const app = Fastify({ logger: { transport: { target: 'pino/file', options: { destination: '/nonexistent/log' } } } })
    await app.register(gracefulPlugin)
    await app.listen({ port: 0, host: '127.0.0.1' })`])
  t.match(await program.exit, { code: 1 })
  t.match(program.output(), /ENOENT.*nonexistent/)
})

t.test('callbacks get the logger itself if its child() throws, and a flush() that throws delays nothing', async t => {
  const logger = pino({ level: 'silent' })
  const fail = () => { throw new Error('on purpose') }
  const loggerInstance = Object.assign(Object.create(logger) as typeof logger, { flush: fail })
  const app = Fastify({ loggerInstance })
  await app.register(gracefulPlugin)
  let given: unknown
  app.registerShutdownCallback(({ log }) => { given = log })
  await app.ready()
  Object.assign(loggerInstance, { child: fail })
  const { exitCode, time } = await app.gracefulShutdown.shutdown()
  t.equal(given, app.log)
  t.equal(exitCode, 0)
  t.ok(time < 1_000, `${time}ms`)
})

t.test('a logger whose flush() rejects does not end the process', async t => {
  const logger = pino({ level: 'silent' })
  const loggerInstance = Object.assign(Object.create(logger) as typeof logger, { flush: async () => { throw new Error('unreachable') } })
  const app = Fastify({ loggerInstance })
  await app.register(gracefulPlugin)
  const rejections: unknown[] = []
  const note = (error: unknown) => { rejections.push(error) }
  process.on('unhandledRejection', note)
  t.teardown(() => { process.off('unhandledRejection', note) })
  await app.close()
  await new Promise(resolve => { setImmediate(resolve) })
  t.strictSame(rejections, [])
})

t.test('a log to a stream of Node ends as soon as its last line is written', async t => {
  const directory = t.testdir()
  const times: number[] = []
  for (let index = 0; index < 5; index++) {
    const stream = createWriteStream(join(directory, `log-${index}`))
    const app = Fastify({ logger: { stream } })
    await app.register(gracefulPlugin)
    await app.ready()
    const start = performance.now()
    await app.gracefulShutdown.shutdown()
    times.push(performance.now() - start)
    stream.end()
    await once(stream, 'close')
    t.match(readFileSync(stream.path, 'utf8').trimEnd().split('\n').at(-1), /Graceful shutdown complete/)
  }
  // A busy machine may delay some of them.
  t.ok(Math.min(...times) < LOG_FLUSH, `took ${times.map(Math.round).join(', ')}ms`)
})
