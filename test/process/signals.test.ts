// Which signals start a shutdown, and what a repeated signal does.

import t from 'tap'
import type { Test } from 'tap'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SIGNAL_COPY } from '../../lib/times.ts'
import { createApp, eventually, fork, portOf, RawClient, runNode, type Program } from '../helpers.ts'

function directoryOf (t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  return directory
}

/** Runs an instance, `app`, and then this code. */
function runService (t: Test, code: string, logger = 'true'): Program {
  return runNode(t, ['--input-type=module', '--eval', `
    import { Writable } from 'node:stream'
    import Fastify from 'fastify'
    import gracefulPlugin from ${JSON.stringify(new URL('../../index.ts', import.meta.url).href)}
    const app = Fastify({ logger: ${logger} })
    await app.register(gracefulPlugin)
    await app.listen({ port: 0, host: '127.0.0.1' })
    ${code}`])
}

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const) {
  t.test(`${signal} starts a shutdown, and a copy of it 40 ms later changes nothing`, async t => {
    const service = fork(t, 'service')
    const port = await portOf(service)
    const client = new RawClient(port).get('/slow?ms=400')
    await service.log.line(/slow request is in/)
    new RawClient(port).get(`/signal-twice/${signal}`)
    await client.closed
    t.match(client.text, /200 OK[^]*slow$/)
    t.strictSame(await service.exit, { code: 0, signal: null })
    t.strictSame(service.log.messages(/received|Second signal/), [`${signal} received, shutting down`])
  })
}

t.test('SIGINT ends a delay that another trigger has started', async t => {
  // The request that throws is never answered, so it takes the whole drainTimeout.
  const service = fork(t, 'service', { OPTIONS: '{"shutdownDelay":20000,"shutdownTimeout":50000,"drainTimeout":300}' })
  new RawClient(await portOf(service)).get('/throw')
  await service.log.line(/still serving for 20000ms/)
  const start = performance.now()
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  t.ok(performance.now() - start < 10_000, 'without the rest of the delay')
  await service.log.line(/callback runs: uncaughtException/)
})

t.test('SIGINT ends a spread that another trigger has started', async t => {
  const options = { shutdownDelay: 20_000, drainTimeout: 1_000, shutdownTimeout: 50_000, spread: 20_000 }
  const service = fork(t, 'service', { OPTIONS: JSON.stringify(options) })
  const port = await portOf(service)
  const streams = Array.from({ length: 10 }, () => new RawClient(port).get('/events'))
  for (const stream of streams) await stream.until(/hello/)
  new RawClient(port).get('/throw')
  await service.log.line(/Ending long-lived connections over 20000ms: 10 are open/)
  const start = performance.now()
  service.kill('SIGINT')
  for (const stream of streams) await stream.until(/\r\n0\r\n\r\n$/)
  t.ok(performance.now() - start < 10_000, 'all at once')
  t.strictSame(await service.exit, { code: 1, signal: null })
})

t.test('SIGUSR2 is not listened to by default', async t => {
  const service = fork(t, 'service')
  await portOf(service)
  service.kill('SIGUSR2')
  t.strictSame(await service.exit, { code: null, signal: 'SIGUSR2' })
})

t.test('with --heapsnapshot-signal=SIGUSR2, the service writes a snapshot and continues to serve', async t => {
  const directory = directoryOf(t)
  const service = fork(t, 'service', {}, ['--heapsnapshot-signal=SIGUSR2', `--diagnostic-dir=${directory}`])
  const port = await portOf(service)
  service.kill('SIGUSR2')
  await eventually(() => readdirSync(directory).some(name => name.endsWith('.heapsnapshot')), 30_000)
  const client = new RawClient(port).get('/', ['Connection: close'])
  await client.closed
  t.match(client.text, /200 OK[^]*served$/)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
})

t.test('an out-of-bounds access of WebAssembly is an exception, and the service continues', async t => {
  const service = fork(t, 'service')
  const port = await portOf(service)
  for (let round = 0; round < 2; round++) {
    const client = new RawClient(port).get('/wasm', ['Connection: close'])
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 500[^]*memory access out of bounds/)
  }
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
})

for (const signal of ['SIGSEGV', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGABRT'] as const) {
  t.test(`a crash, ${signal}, remains a crash`, async t => {
    const service = fork(t, 'service')
    const port = await portOf(service)
    if (signal === 'SIGABRT') new RawClient(port).get('/abort')
    else service.kill(signal)
    t.strictSame(await service.exit, { code: null, signal })
  })
}

t.test('gracefulShutdown.signal, and that of a callback, take any number of listeners without a warning', async t => {
  const warnings: Error[] = []
  const warned = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', warned)
  const { app } = await createApp(t)
  let aborted = 0
  const addListeners = (signal: AbortSignal): void => {
    for (let index = 0; index < 50; index++) signal.addEventListener('abort', () => { aborted++ })
  }
  addListeners(app.gracefulShutdown.signal)
  app.gracefulShutdown.onShutdown(async ({ signal }) => {
    addListeners(signal)
    await once(signal, 'abort')
  }, { timeout: 1 })
  await app.close()
  await new Promise(resolve => { setImmediate(resolve) })
  process.off('warning', warned)
  t.equal(aborted, 100)
  t.strictSame(warnings, [])
})

t.test('the report of a shutdown that ends during a forced exit has its exit code', async t => {
  const program = runService(t, `
    import { stat } from 'node:fs'
    let forced
    app.registerShutdownCallback(async () => { await new Promise(resolve => { forced = resolve }) })
    process.emit('SIGTERM', 'SIGTERM')
    await new Promise(resolve => { setTimeout(resolve, ${SIGNAL_COPY + 50}) })
    // An operation on files may be that of the log, for which a forced exit waits.
    const next = () => { stat(process.execPath, next) }
    next()
    process.emit('SIGHUP', 'SIGHUP')
    forced()`, '{ stream: new Writable({ write (line, _encoding, done) { process.stdout.write(line, done) } }) }')
  t.strictSame(await program.exit, { code: 1, signal: null })
  t.strictSame(program.log.messages(/^Graceful shutdown complete/), [])
  t.match(await program.log.line(/^Shutdown complete, with errors/), { report: { exitCode: 1, errors: ['The process exited before the shutdown was complete'] } })
})

t.test('wait() that is called after a signal resolves before the process exits', async t => {
  const program = runService(t, `
    const wait = async () => await app.gracefulShutdown.wait()
    process.emit('SIGTERM', 'SIGTERM')
    await new Promise(resolve => { setImmediate(resolve) })
    const { exitCode } = await wait()
    app.log.info('waited for exit code ' + exitCode)`)
  t.strictSame(await program.exit, { code: 0, signal: null })
  t.strictSame(program.log.messages(/^waited/), ['waited for exit code 0'])
})

for (const call of ['close', 'gracefulShutdown.shutdown']) {
  t.test(`${call}() after wait() has resolved leaves the exit as it was`, async t => {
    const program = runService(t, `
      setInterval(() => {}, 1000)
      process.emit('SIGTERM', 'SIGTERM')
      await app.gracefulShutdown.wait()
      await app.${call}()`)
    t.strictSame(await program.exit, { code: 0, signal: null })
    t.strictSame(program.log.messages(/has not ended/), [])
  })
}

t.test('a third signal while the log is written does not disturb the exit', async t => {
  const program = runService(t, `
    app.registerShutdownCallback(async () => { await new Promise(() => {}) })
    process.emit('SIGTERM', 'SIGTERM')
    await new Promise(resolve => { setTimeout(resolve, ${SIGNAL_COPY + 50}) })
    for (const signal of ['SIGHUP', 'SIGQUIT']) process.emit(signal, signal)`)
  t.strictSame(await program.exit, { code: 1, signal: null })
  t.strictSame(program.log.messages(/^Second signal/), ['Second signal, SIGHUP: exiting at once'])
})
