// In the test suite of an application, close() takes almost no time, also with fake timers.

import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { AddressInfo } from 'node:net'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mock } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import httpProxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import { useFakeTimers } from 'sinon'
import gracefulPlugin from '../../index.ts'
import { createApp, fork, listen, portOf, RawClient } from '../helpers.ts'

/** Milliseconds that close() takes after a fetch over keep-alive. */
async function closeAfterFetch (withPlugin: boolean, options: object, listens = listen): Promise<number> {
  const app = Fastify() as FastifyInstance
  if (withPlugin) await app.register(gracefulPlugin, options)
  app.get('/', async () => 'served')
  const port = await listens(app)
  await (await fetch(`http://127.0.0.1:${port}/`)).text()
  const start = performance.now()
  await app.close()
  return performance.now() - start
}

async function listenWithServer (app: FastifyInstance): Promise<number> {
  await app.ready()
  await once(app.server.listen(0, '127.0.0.1'), 'listening')
  return (app.server.address() as AddressInfo).port
}

/** Its replaced server.close() calls Node's own later. */
async function listenWithProxy (app: FastifyInstance): Promise<number> {
  await app.register(httpProxy, { upstream: 'http://127.0.0.1:1', prefix: '/proxied', websocket: true })
  return await listen(app)
}

async function testCosts (t: Test, options: object, listens = listen): Promise<void> {
  const alone: number[] = []
  const ours: number[] = []
  for (let round = 0; round < 21; round++) {
    alone.push(await closeAfterFetch(false, {}, listens))
    ours.push(await closeAfterFetch(true, options, listens))
  }
  // Other load on the machine only adds to a time.
  const more = Math.min(...ours) - Math.min(...alone)
  t.ok(more <= 5, `${more}ms longer`)
}

for (const [how, listens] of [['listen()', listen], ['server.listen()', listenWithServer], ['listen() with @fastify/http-proxy', listenWithProxy]] as const) {
  t.test(`close() after ${how} and a fetch over keep-alive takes at most 5 ms longer than with Fastify alone`, async t => {
    await testCosts(t, {}, listens)
  })
}

t.test('close() takes at most 5 ms longer without signals, too, if no code handles SIGTERM', async t => {
  // tap handles SIGTERM itself.
  const others = process.listeners('SIGTERM')
  process.removeAllListeners('SIGTERM')
  t.teardown(() => { for (const listener of others) process.on('SIGTERM', listener) })
  await testCosts(t, { signals: false })
})

t.test('a server that the test suite opens and closes for each request, as with supertest, starts no shutdown', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  await app.ready()
  for (let round = 0; round < 2; round++) {
    app.server.listen(0, '127.0.0.1')
    await once(app.server, 'listening')
    const client = new RawClient((app.server.address() as AddressInfo).port).get('/')
    await client.until(/200 OK[^]*served$/)
    await new Promise(resolve => { app.server.close(resolve) })
    await client.closed
    t.equal(app.gracefulShutdown.phase, 'running')
  }
  const start = performance.now()
  await app.close()
  t.ok(performance.now() - start < 50)
})

t.test('close() waits for late requests if other code handles SIGTERM, because it may be a deploy', async t => {
  const handler = () => {}
  process.on('SIGTERM', handler)
  t.teardown(() => { process.off('SIGTERM', handler) })
  const time = await closeAfterFetch(true, { signals: ['SIGINT'] })
  t.ok(time >= 90, `took ${time}ms`)
})

t.test("shutdown('close') is not close(), so it waits for late requests", async t => {
  const app = Fastify() as FastifyInstance
  await app.register(gracefulPlugin)
  app.get('/', async () => 'served')
  await (await fetch(`http://127.0.0.1:${await listen(app)}/`)).text()
  const { reason, phases } = await app.gracefulShutdown.shutdown('close')
  t.equal(reason, 'close')
  t.ok(phases.draining >= 90, `drained for ${phases.draining}ms`)
})

t.test('close() called because of a signal also waits for late requests', async t => {
  const program = fork(t, 'close-on-signal')
  const port = await portOf(program)
  const client = new RawClient(port).get('/')
  await client.until(/200 OK/)
  program.kill('SIGTERM')
  const { report } = await program.log.line(/^Graceful shutdown complete/) as unknown as { report: { phases: { draining: number } } }
  t.ok(report.phases.draining >= 90, `drained for ${report.phases.draining}ms`)
  t.match(await program.exit, { code: 0 })
})

/** Ways to fake timers, each with its undo function. */
const fakes: Record<string, () => () => void> = {
  'node:test' () {
    mock.timers.enable()
    return () => { mock.timers.reset() }
  },
  sinon () {
    // If process.nextTick() is faked, Fastify's own close() does not resolve.
    const clock = useFakeTimers({ toNotFake: ['nextTick', 'queueMicrotask'] })
    return () => { clock.restore() }
  }
}

for (const [name, fake] of Object.entries(fakes)) {
  t.test(`close() resolves while ${name} fakes timers`, async t => {
    const app = Fastify() as FastifyInstance
    await app.register(gracefulPlugin, { shutdownDelay: 10 })
    app.get('/', async () => 'served')
    app.addHook('preClose', async () => {})
    let ran = 0
    app.registerShutdownCallback(() => { ran++ })
    const client = new RawClient(await listen(app)).get('/')
    await client.until(/served/)
    const undo = fake()
    t.teardown(undo)
    await app.close()
    undo()
    t.equal(ran, 1)
    await client.closed
  })
}

t.test('close() resolves while vitest fakes timers', async t => {
  const root = fileURLToPath(new URL('../fixtures/vitest', import.meta.url))
  const vitest = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url))
  // By way of `env`, because the test runner adds its environment to each Node process that it sees started, but vitest compiles the
  // source in its own way, which confuses the coverage.
  const clean = ['-i', `PATH=${process.env.PATH}`, process.execPath]
  const { stdout } = await promisify(execFile)('env', [...clean, vitest, 'run', '--root', root])
  t.match(stdout, /1 passed/)
})
