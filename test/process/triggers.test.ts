// Whatever starts the shutdown, and whenever, it is the same shutdown.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { once } from 'node:events'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import { gracefulPlugin } from '../../index.ts'
import { SIGNAL_COPY } from '../../lib/times.ts'
import {
  COVERED, createApp, eventually, every, fork, heldRoute, listen, phaseBegins, portOf, portOfWorkers, RawClient, TYPESCRIPT
} from '../helpers.ts'
import { get, START } from '../http2.ts'

t.jobs = 3

const root = fileURLToPath(new URL('../..', import.meta.url))

/** How to get a service with a request in flight into a phase of its shutdown, and the log line that shows the phase. */
const phases = [
  ['delaying', { OPTIONS: '{"shutdownDelay":3000}' }, /still serving for 3000ms/],
  ['draining', {}, /Waiting for 1 in-flight request/],
  ['closing, in an onClose hook', { ON_CLOSE: 'hangs', OPTIONS: '{"drainTimeout":100}' }, /onClose runs/],
  ['closing, in a callback', { CALLBACK: 'hangs', OPTIONS: '{"drainTimeout":100}' }, /callback runs/]
] as const

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  for (const [phase, env, message] of phases) {
    t.test(`a second signal, ${signal}, exits at once while ${phase}, and lost requests are named`, async t => {
      const service = fork(t, 'service', { ...phase === 'draining' && COVERED, ...env })
      const client = new RawClient(await portOf(service)).get('/stuck')
      await service.log.line(/stuck request is in/)
      service.kill('SIGTERM')
      await service.log.line(message)
      // A signal within SIGNAL_COPY counts as a copy of the first one; on a busy machine, that takes longer.
      await new Promise(resolve => { setTimeout(resolve, 3 * SIGNAL_COPY) })
      const start = performance.now()
      service.kill(signal)
      t.strictSame(await service.exit, { code: 1, signal: null })
      // Not at shutdownTimeout, after 30 s.
      t.ok(performance.now() - start < 10_000)
      await client.closed
      t.match(client.text, / 503 [^]*connection: close[^]*FST_ERR_GRACEFUL_(?:EXIT|DRAIN_TIMEOUT)/i)
      await service.log.line(new RegExp(`Second signal, ${signal}: exiting at once`))
      t.equal(service.log.messages(/^Request cut/).length, 1)
      t.match(await service.log.line(/exits before the shutdown is complete/), { callbacks: ['cleanup'] })
    })
  }

  t.test(`${signal} while starting ends the process: nothing listens, and the plugin has no signal handlers yet`, async t => {
    const service = fork(t, 'service', { STARTS: 'slowly' })
    await service.log.line(/^starting$/)
    service.kill(signal)
    t.strictSame(await service.exit, { code: null, signal })
  })

  t.test(`${signal} as soon as it listens starts a shutdown`, async t => {
    const service = fork(t, 'service')
    await service.log.line(/listening at/)
    service.kill(signal)
    t.strictSame(await service.exit, { code: 0, signal: null })
    await service.log.line(new RegExp(`callback runs: ${signal}`))
  })

  t.test(`${signal} during fastify.close() joins it`, async t => {
    const service = fork(t, 'service', COVERED)
    const port = await portOf(service)
    // Longer than a loaded machine takes until the signal: after the shutdown, it would end the process as without the plugin.
    const client = new RawClient(port).get('/slow?ms=2000')
    await service.log.line(/slow request is in/)
    const closer = new RawClient(port).get('/close')
    await closer.closed
    service.kill(signal)
    await client.closed
    t.match(client.text, /200 OK[^]*slow$/)
    t.strictSame(await service.exit, { code: 0, signal: null })
    t.strictSame(service.log.messages(/callback runs/), ['callback runs: close'])
  })
}

t.test('close() called three times closes once', async t => {
  const { app } = await createApp(t)
  const held = heldRoute(app)
  const ran: string[] = []
  app.addHook('onClose', async () => { ran.push('onClose') })
  app.registerShutdownCallback(() => { ran.push('callback') })
  const client = new RawClient(await listen(app)).get('/held')
  await held.entered
  const closed = [app.close(), app.close(), app.close()]
  held.release()
  await Promise.all(closed)
  await client.closed
  t.match(client.text, '{"held":true}')
  t.strictSame(ran, ['onClose', 'callback'])
})

t.test('close() called by a handler lets its own response be sent', async t => {
  const service = fork(t, 'service')
  const client = new RawClient(await portOf(service)).get('/close')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close\r\n[^]*closing$/i)
  t.strictSame(await service.exit, { code: 0, signal: null })
  await service.log.line(/callback runs: close/)
})

t.test('a handler that awaits close() waits for itself until the drain timeout', async t => {
  const service = fork(t, 'service', { OPTIONS: '{"drainTimeout":300}' })
  const client = new RawClient(await portOf(service)).get('/close?awaited')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/)
  await service.exit
  t.match(await service.log.line(/^Shutdown complete, with errors/), { report: { reason: 'close', cut: [{ route: '/close' }], exitCode: 1 } })
})

for (const when of ['before it listens', 'while it starts to', 'with a request in flight'] as const) {
  t.test(`an aborted listen signal closes the instance, ${when}`, async t => {
    const { app } = await createApp(t)
    const held = heldRoute(app)
    let ran = 0
    app.registerShutdownCallback(() => { ran++ })
    const controller = new AbortController()
    if (when === 'before it listens') controller.abort()
    const listening = app.listen({ port: 0, host: '127.0.0.1', signal: controller.signal }).then(address => address, () => '')
    if (when === 'while it starts to') controller.abort()
    const address = await listening
    let client: RawClient | undefined
    if (when === 'with a request in flight') {
      client = new RawClient(Number(new URL(address).port)).get('/held')
      await held.entered
      controller.abort()
      await phaseBegins(app, 'draining')
    }
    held.release()
    t.match(await app.gracefulShutdown.wait(), { reason: 'close', cut: { length: 0 }, exitCode: 0, completed: client === undefined ? 0 : 1 })
    t.equal(ran, 1)
    t.notOk(app.server.listening)
    if (client === undefined) return
    await client.closed
    t.match(client.text, /200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
  })
}

/** The ports of the fixture's instances, in order. */
async function portsOf ({ log }: Program): Promise<number[]> {
  // Not from each instance's own lines, because each has its own destination, which does not preserve their order.
  const { ports } = await log.line(/all listen/)
  return ports as number[]
}

interface Instance {
  drainTimeout: number
  ms?: number
  fails?: boolean
}

interface Ended {
  service: Program
  texts: string[]
  code: number | null
}

/** Sends SIGTERM with a request in flight in each instance. Returns the responses, and how the process ended. */
async function endInstances (t: Test, instances: Instance[], env: Record<string, string> = {}): Promise<Ended> {
  // The copy consists of sources.
  const service = fork(t, 'instances', { INSTANCES: JSON.stringify(instances), ...env }, TYPESCRIPT)
  const clients = (await portsOf(service)).map(port => new RawClient(port).get('/'))
  await Promise.all(instances.map(async (_, index) => await service.log.line(new RegExp(`^${index} is in`))))
  service.kill('SIGTERM')
  await Promise.all(clients.map(async client => { await client.closed }))
  const { code } = await service.exit
  t.equal(service.log.messages(/^SIGTERM received/).length, instances.length)
  t.equal(service.log.messages(/cleans up$/).length, instances.length, 'each instance cleans up, once')
  return { service, texts: clients.map(({ text }) => text), code }
}

t.test('on a second signal, an instance logs what it cuts, also behind one without a logger', async t => {
  const service = fork(t, 'instances', { INSTANCES: '[{"drainTimeout":20000,"isMute":true},{"drainTimeout":20000}]' })
  const clients = (await portsOf(service)).map(port => new RawClient(port).get('/'))
  await service.log.line(/^1 is in/)
  service.kill('SIGTERM')
  await service.log.line(/^Waiting for 1 in-flight request/)
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  t.equal(service.log.messages(/^Second signal, SIGINT: exiting at once$/).length, 1)
  t.equal(service.log.messages(/^Request cut: The process exited/).length, 1)
})

/** The routes of the requests that a program has named as cut. */
const cutRoutes = ({ log }: Program) => log.lines.filter(({ msg }) => msg.startsWith('Request cut')).map(({ route }) => route)

/** A service that blocks as its listeners are about to close, until `go` is called. Its second signal comes once COUNT requests arrive. */
async function blockedService (t: Test, env: Record<string, string>) {
  const SENT = `${t.testdir({})}/sent`
  const service = fork(t, 'late-second-signal', { ...COVERED, ...env, WHEN: 'closing', SENT })
  const port = await portOf(service)
  const blocks = async () => {
    service.kill('SIGTERM')
    await service.log.line(/^blocks$/)
  }
  return { service, port, blocks, go: () => { writeFileSync(SENT, '') } }
}

const LATE_REQUESTS = { 'wait for their 503': {}, 'hooks ahead of the plugin hold': { HELD: 'yes' } }
for (const [what, env] of Object.entries(LATE_REQUESTS)) {
  t.test(`on a second signal as the listeners are about to close, requests that ${what} get a 503`, async t => {
    const { service, port, blocks, go } = await blockedService(t, { COUNT: '4', ...env })
    const open = new RawClient(port).get('/')
    await open.until(/ 404 [^]*\}$/)
    await blocks()
    const later = new RawClient(port).get('/').get('/').get('/')
    open.get('/')
    await once(later.socket, 'connect')
    go()
    t.strictSame(await service.exit, { code: 1, signal: null })
    for (const client of [open, later]) {
      await client.closed
      t.equal(client.text.match(/ 503 [^]*?FST_ERR_GRACEFUL_SHUTTING_DOWN[^]*?\}/g)?.length, client === open ? 1 : 3)
      t.equal(client.error, undefined)
    }
  })
}

t.test('on a second signal as the listeners are about to close, HTTP/2 requests get a 503', async t => {
  const { service, port, blocks, go } = await blockedService(t, { COUNT: '1', HTTP2: 'yes' })
  await blocks()
  const client = new RawClient(port)
  await once(client.socket, 'connect')
  client.socket.write(Buffer.concat([START, get(1)]))
  go()
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  t.match(client.text, /FST_ERR_GRACEFUL_SHUTTING_DOWN/)
})

t.test('on a second signal, a request that was rejected behind one in flight gets its 503 after it', async t => {
  const service = fork(t, 'service', COVERED)
  const port = await portOf(service)
  const client = new RawClient(port).get('/stuck')
  await service.log.line(/stuck request is in/)
  service.kill('SIGTERM')
  await service.log.line(/^Waiting for 1 in-flight request/)
  client.get('/')
  await new RawClient(port).get('/').until(/ 503 /)
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  t.strictSame(client.text.match(/FST_\w+/g), ['FST_ERR_GRACEFUL_EXIT', 'FST_ERR_GRACEFUL_SHUTTING_DOWN'])
  t.equal(service.log.messages(/^Request cut/).length, 1)
})

t.test('on a second signal, answers that are ready behind a request in flight are sent after it, and only that one is named', async t => {
  const service = fork(t, 'service', COVERED)
  const client = new RawClient(await portOf(service)).get('/stuck').get('/bytes/5').get('/bytes/5').get('/stuck').get('/bytes/5')
  await eventually(() => service.log.messages(/stuck request is in/).length === 2)
  service.kill('SIGTERM')
  await service.log.line(/^Waiting for 5 in-flight requests/)
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  t.strictSame(client.text.match(/(?<=HTTP\/1\.1 )\d+/g), ['503', '200', '200', '503', '200'])
  t.strictSame(cutRoutes(service), ['/stuck', '/stuck'])
})

for (const [what, path, named] of [
  ['a response that has begun', '/begun', ['/begun', '/bytes/:size']],
  ['a begun response of a route that has opted out', '/begun-uncounted', ['/bytes/:size']],
  ['a response that the client does not read', '/bytes/30000000', ['/bytes/:size', '/bytes/:size']]
] as const) {
  t.test(`on a second signal, an answer behind ${what} is named`, async t => {
    const service = fork(t, 'service', COVERED)
    const client = new RawClient(await portOf(service)).get(path).get('/bytes/5')
    client.socket.pause()
    await eventually(() => service.log.messages(/^incoming request$/).length === 2)
    service.kill('SIGTERM')
    await service.log.line(new RegExp(`^Waiting for ${named.length} in-flight request`))
    service.kill('SIGINT')
    t.strictSame(await service.exit, { code: 1, signal: null })
    t.strictSame(cutRoutes(service), named)
    client.socket.destroy()
  })
}

t.test('if other code exits during the drain, answers that cannot be sent any more are named', async t => {
  const service = fork(t, 'service', { ...COVERED, AFTER_LISTEN: 'exit on SIGUSR2' })
  const port = await portOf(service)
  const client = new RawClient(port).get('/stuck').get('/bytes/5')
  await eventually(() => service.log.messages(/^incoming request$/).length === 2)
  service.kill('SIGTERM')
  await service.log.line(/^Waiting for 2 in-flight requests/)
  service.kill('SIGUSR2')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  t.match(client.text, / 503 [^]*FST_ERR_GRACEFUL_EXIT/)
  // pino's last write may overtake the one in progress.
  t.strictSame(new Set(cutRoutes(service)), new Set(['/stuck', '/bytes/:size']))
})

t.test('a forced exit that cuts thousands of requests logs their number', async t => {
  const service = fork(t, 'service', { ...COVERED, OPTIONS: '{"drainTimeout":20000}' })
  const client = new RawClient(await portOf(service))
  client.send('GET /stuck HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(1_100))
  await eventually(() => service.log.messages(/stuck request is in/).length === 1_100)
  service.kill('SIGTERM')
  await service.log.line(/^Waiting for 1100 in-flight requests/)
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  t.equal(service.log.messages(/^Request cut/).length, 1_000)
  await service.log.line(/^1100 requests were cut; only the first 1000 have their own line$/)
})

t.test('while a forced exit waits for its log, new requests get a 503', async t => {
  const service = fork(t, 'late-second-signal', { WHEN: 'delaying' })
  await portOf(service)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 1, signal: null })
  t.strictSame(service.log.messages(/^status|^Second signal/), ['Second signal, SIGINT: exiting at once', 'status 503'])
})

t.test('a second signal once the report is written exits at once, with the exit code of the report', async t => {
  const service = fork(t, 'late-second-signal', { ...COVERED, WHEN: 'reported' })
  await portOf(service)
  service.kill('SIGTERM')
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.match(await service.log.line(/^Graceful shutdown complete$/), { report: { exitCode: 0 } })
  t.strictSame(service.log.messages(/^Second signal/), ['Second signal, SIGINT: exiting at once'])
})

for (const copies of [1, 2]) {
  t.test(`instances of ${copies === 1 ? 'one copy' : 'two copies'} of the package shut down together`, async t => {
    const env: Record<string, string> = copies === 2 ? { COPY: copyOfPackage(t) } : {}

    await t.test('two, neither cut', async t => {
      const { texts, code } = await endInstances(t, [{ drainTimeout: 1_000, ms: 100 }, { drainTimeout: 2_000, ms: 500 }], env)
      t.match(texts, [/200 OK[^]*served by 0$/, /200 OK[^]*served by 1$/])
      t.equal(code, 0)
    })

    await t.test('two, the quicker one cut: the process waits for the slower one, and the worst result decides the exit code', async t => {
      const { texts, code } = await endInstances(t, [{ drainTimeout: 100 }, { drainTimeout: 2_000, ms: 500 }], env)
      t.match(texts, [/^HTTP\/1\.1 503/, /200 OK[^]*served by 1$/])
      t.equal(code, 1)
    })

    await t.test('two, the first with less time for its shutdown: the process stays until the other one is done', async t => {
      const { texts, code } = await endInstances(t, [{ drainTimeout: 100, ms: 0 }, { drainTimeout: 4_000, ms: 2_800 }], env)
      t.match(texts, [/200 OK[^]*served by 0$/, /200 OK[^]*served by 1$/])
      t.equal(code, 0)
    })

    await t.test('five with their own timeouts, one of which fails to clean up', async t => {
      const instances = [100, 200, 300, 400, 500].map((ms, index) => ({ ms, drainTimeout: 4 * ms, fails: index === 1 }))
      const { service, texts, code } = await endInstances(t, instances, env)
      t.match(texts, instances.map((_, index) => new RegExp(`200 OK[^]*served by ${index}$`)))
      t.equal(code, 1)
      t.equal(service.log.messages(/^Graceful shutdown complete/).length, 4)
      t.equal(service.log.messages(/^Shutdown complete, with errors/).length, 1)
    })
  })
}

t.test('instances of two copies of the package that are closed at the same time leave no exit listener', async t => {
  const { gracefulPlugin: copied } = await import(copyOfPackage(t)) as { gracefulPlugin: typeof gracefulPlugin }
  const before = process.listenerCount('exit')
  const first = Fastify()
  const second = Fastify()
  await first.register(gracefulPlugin)
  await second.register(copied)
  second.registerShutdownCallback(async () => { await first.gracefulShutdown.wait() })
  await Promise.all([first.close(), second.close()])
  t.equal(process.listenerCount('exit'), before)
})

for (const what of ['another one begins to listen', 'another one closes', 'another one begins to listen afterwards']) {
  t.test(`SIGTERM is handled while one instance listens and ${what}; all instances shut down`, async t => {
    const service = fork(t, 'coming-and-going', { ...what.endsWith('afterwards') && COVERED, CASE: what })
    t.strictSame(await service.exit, { code: 0, signal: null })
    t.strictSame(service.log.messages(/cleans up$/).sort(), ['first cleans up', 'second cleans up'])
  })
}

t.test('SIGINT also skips the delay of an instance that starts to listen afterwards', async t => {
  const service = fork(t, 'coming-and-going', { ...COVERED, CASE: 'another one, with a delay, begins to listen after SIGINT' })
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.strictSame(service.log.messages(/cleans up$|still serving/).sort(), ['first cleans up', 'second cleans up'])
})

/** Makes another copy of the package, and returns the path of its index.ts. */
function copyOfPackage (t: Test): string {
  const copy = mkdtempSync(`${root}/.tap/copy-`)
  t.teardown(() => { rmSync(copy, { recursive: true, force: true }) })
  for (const part of ['index.ts', 'lib', 'types', 'package.json']) cpSync(`${root}/${part}`, `${copy}/${part}`, { recursive: true })
  return `${copy}/index.ts`
}

/** The port of the fixture's workers, once both of them listen. */
t.test('node:cluster: a worker that does not know yet that its primary is gone also shuts down gracefully', async t => {
  const service = fork(t, 'cluster', COVERED)
  const client = new RawClient(await portOfWorkers(service)).get('/alone')
  await client.closed
  t.match(client.text, /200 OK[^]*alone$/)
  await service.exit
  t.notMatch(service.output(), 'Uncaught error')
  t.equal(service.output().match(/"msg":"Graceful shutdown complete"/g)?.length, 2)
})

t.test("node:cluster: any other error of a worker's channel is uncaught, as without the plugin", async t => {
  const service = fork(t, 'cluster', COVERED)
  new RawClient(await portOfWorkers(service)).get('/channel-error')
  t.strictSame(service.log.messages(/^left behind/), ['left behind: 0', 'left behind: 0'])
  t.match(await service.log.line(/^Uncaught error$/), { err: { message: 'channel error on purpose' } })
  await service.log.line(/^worker exited: 1 null$/)
})

t.test('node:cluster: a worker that its primary disconnects finishes its requests', async t => {
  const service = fork(t, 'cluster', COVERED)
  const port = await portOfWorkers(service)
  // Enough connections that each worker has some.
  const unused = Array.from({ length: 8 }, () => new RawClient(port))
  const idle = await Promise.all(Array.from({ length: 8 }, async () => {
    const client = new RawClient(port).get('/')
    await client.until(/served by/)
    return client
  }))
  const client = new RawClient(port).get('/disconnect')
  await service.log.line(/^Shutting down/)
  await Promise.all(unused.map(async other => { await other.get('/').until(/served by/) }))
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close\r\n[^]*disconnected$/i)
  t.match(await service.log.line(/^worker exited/), { msg: 'worker exited: 0 null' })
  const [report] = service.log.lines.filter(({ msg }) => msg === 'Graceful shutdown complete') as unknown as Array<{ report: { phases: { delaying: number }, time: number } }>
  t.ok(report !== undefined && report.report.phases.delaying < 200 && report.report.time < 2_000, 'without a delay, and at once')
  t.equal(service.log.messages(/^callback runs/).length, 1)
  for (const { socket } of [...idle, ...unused]) socket.destroy()
})

for (const what of ['disconnects its worker', 'is gone']) {
  t.test(`node:cluster: if the primary ${what}, the application's own callback of server.close() waits for the shutdown`, async t => {
    const service = fork(t, 'cluster', { ...COVERED, OWN_CLOSE: 'true' })
    const port = await portOfWorkers(service)
    if (what === 'is gone') service.kill('SIGKILL')
    else new RawClient(port).get('/disconnect')
    t.equal((await service.log.line(/^server closed/)).msg, 'server closed while closed')
  })
}

t.test('a different signal directly after the first one exits at once', async t => {
  const service = fork(t, 'service')
  const port = await portOf(service)
  const client = new RawClient(port).get('/stuck')
  await service.log.line(/stuck request is in/)
  new RawClient(port).get('/signals/SIGTERM,SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await client.closed
  await service.log.line(/Second signal, SIG(?:TERM|INT): exiting at once/)
})

t.test('a signal after an uncaught error joins the shutdown, and a second one exits at once', async t => {
  const service = fork(t, 'service')
  const port = await portOf(service)
  new RawClient(port).get('/stuck')
  const client = new RawClient(port).get('/slow?ms=600')
  await Promise.all([service.log.line(/slow request is in/), service.log.line(/stuck request is in/)])
  new RawClient(port).get('/throw')
  await service.log.line(/Waiting for/)
  service.kill('SIGTERM')
  await client.closed
  t.match(client.text, /200 OK[^]*slow$/)
  // Another signal: the same one could be taken for a copy, if the machine stalled before the slow request.
  service.kill('SIGINT')
  t.strictSame(await service.exit, { code: 1, signal: null })
  await service.log.line(/Second signal, SIG(?:INT|TERM)/)
})

for (const [what, given, reason, code] of [
  ["new Error('reason on purpose')", 'error', 'reason on purpose', 1], ['null', 'null', 'shutdown', 0], ['{}', 'object', '{}', 0]
] as const) {
  t.test(`a signal after shutdown(${what}) joins the shutdown: requests are answered, and the process exits`, async t => {
    const service = fork(t, 'service')
    const port = await portOf(service)
    const client = new RawClient(port).get('/slow?ms=600&until=shutdown')
    await service.log.line(/slow request is in/)
    await new RawClient(port).get(`/shutdown/${given}`).until(/shutting down$/)
    await service.log.line(/^Waiting for 2 in-flight requests/)
    t.equal(client.text, '')
    service.kill('SIGTERM')
    await client.closed
    t.match(client.text, /200 OK[^]*slow$/)
    t.strictSame(await service.exit, { code, signal: null })
    t.strictSame(service.log.messages(/^callback runs|^Second signal/), [`callback runs: ${reason}`])
    const { report } = await service.log.line(/^(?:Graceful s|S)hutdown complete/)
    t.match(report, { reason, completed: 2, cut: { length: 0 }, exitCode: code })
  })

  t.test(`a second signal after shutdown(${what}) exits at once`, async t => {
    const service = fork(t, 'service')
    const port = await portOf(service)
    const client = new RawClient(port).get('/stuck')
    await service.log.line(/stuck request is in/)
    await new RawClient(port).get(`/shutdown/${given}`).until(/shutting down$/)
    service.kill('SIGTERM')
    await new Promise(resolve => { setTimeout(resolve, 3 * SIGNAL_COPY) })
    t.strictSame(service.log.messages(/^Second signal|before the shutdown is complete/), [], 'the first one does not')
    const start = performance.now()
    service.kill('SIGTERM')
    // The program may have been too busy to receive the first one before this one.
    every(t, 3 * SIGNAL_COPY, () => { service.kill('SIGTERM') })
    t.strictSame(await service.exit, { code: 1, signal: null })
    // Not at shutdownTimeout, after 30 s.
    t.ok(performance.now() - start < 10_000)
    await client.closed
    t.match(client.text, / 503 [^]*connection: close[^]*FST_ERR_GRACEFUL_EXIT/i)
    await service.log.line(/^Second signal, SIGTERM: exiting at once/)
  })
}
