// Responses whose writeHead, write and end are wrapped, as in Express middleware for compression, timing and sessions.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { ServerResponse } from 'node:http'
import type { Test } from 'tap'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { Deferred, eventually, listen, RawClient, visit } from './helpers.ts'

type Method = (...args: unknown[]) => unknown

/** Ways to wrap a response. */
const wraps: Record<string, (response: ServerResponse) => void> = {
  'adds a header as the head is written': response => {
    const writeHead = response.writeHead as Method
    response.writeHead = ((...args: unknown[]) => {
      response.setHeader('x-time', '1')
      return writeHead.apply(response, args)
    }) as typeof response.writeHead
  },
  'ends the response a turn later': response => {
    const end = response.end as Method
    response.end = ((...args: unknown[]) => {
      setImmediate(() => { end.apply(response, args) })
      return response
    }) as typeof response.end
  },
  'throws as the head is written': response => {
    response.writeHead = () => { throw new Error('middleware') }
  }
}

async function startWrapped (t: Test, wrap: (response: ServerResponse) => void, isAhead: boolean, isRouteAhead: boolean) {
  const app = Fastify() as FastifyInstance
  const [entered, released] = [new Deferred(), new Deferred()]
  t.teardown(async () => {
    released.resolve()
    await app.close()
  })
  const addHook = (): void => {
    app.addHook('onRequest', (_request, reply, done) => {
      wrap(reply.raw)
      done()
    })
  }
  const addRoute = (): void => {
    app.get('/', async () => {
      entered.resolve()
      await released.promise
      return 'late'
    })
  }
  if (isAhead) addHook()
  if (isRouteAhead) addRoute()
  await app.register(gracefulPlugin, { drainTimeout: 200 })
  if (!isAhead) addHook()
  if (!isRouteAhead) addRoute()
  return { app, entered: entered.promise, release: () => { released.resolve() } }
}

for (const [what, wrap] of Object.entries(wraps)) {
  for (const isAhead of [true, false]) {
    const where = isAhead ? 'registered before the plugin' : 'registered after the plugin'

    t.test(`a request is cut although a middleware ${where} ${what}`, async t => {
      const { app, entered, release } = await startWrapped(t, wrap, isAhead, false)
      const client = new RawClient(await listen(app)).get('/')
      await entered
      const report = await app.gracefulShutdown.shutdown()
      await client.closed
      t.match(report, { cut: [{ method: 'GET', url: '/' }], exitCode: 1 })
      t.equal(report.cut.length, 1)
      t.match(client.text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT[^\n]*$/)
      release()
      await eventually(() => app.inFlightRequests === 0)
    })

    if (what.startsWith('throws')) continue
    t.test(`a request is waited for although a middleware ${where} ${what}`, async t => {
      const { app, entered, release } = await startWrapped(t, wrap, isAhead, false)
      const client = new RawClient(await listen(app)).get('/')
      await entered
      t.equal(app.inFlightRequests, 1)
      const report = app.gracefulShutdown.shutdown()
      release()
      await client.closed
      t.match(client.text, /^HTTP\/1\.1 200[^]*late$/)
      t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
    })
  }
}

t.test('a request to a route that was registered before the plugin is waited for', async t => {
  const { app, entered, release } = await startWrapped(t, () => {}, false, true)
  const client = new RawClient(await listen(app)).get('/')
  await entered
  t.equal(app.inFlightRequests, 1)
  const report = app.gracefulShutdown.shutdown()
  release()
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200[^]*late$/)
  t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('a request to a route that was registered before the plugin still counts after its client has disconnected', async t => {
  const { app, entered, release } = await startWrapped(t, () => {}, false, true)
  const { client, leave } = await visit(app, await listen(app))
  client.get('/')
  await entered
  const report = app.gracefulShutdown.shutdown()
  await leave()
  t.equal(app.inFlightRequests, 1)
  release()
  t.match(await report, { completed: 0, cut: { length: 0 }, exitCode: 0 })
  t.equal(app.inFlightRequests, 0)
})
