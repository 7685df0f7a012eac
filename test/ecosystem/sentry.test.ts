// @sentry/node: events, sent to a server of the test.

import t, { type Test } from 'tap'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Deferred } from '../helpers.ts'
import { start } from './service.ts'

interface Event { exception?: { values: Array<{ value: string }> } }

/** A server that takes Sentry's events: the messages of their errors, and a promise of the first one. */
async function ingest (t: Test): Promise<{ dsn: string, errors: string[], first: Promise<string> }> {
  const errors: string[] = []
  const first = new Deferred<string>()
  const receive = async (request: IncomingMessage, response: ServerResponse) => {
    // An envelope: a line with its header, then for each item a line with its header and one with its content.
    const lines = (await text(request)).split('\n').map(line => line === '' ? {} : JSON.parse(line) as Event)
    errors.push(...lines.flatMap(({ exception }) => exception?.values.map(({ value }) => value) ?? []))
    response.end('{}')
    if (errors[0] !== undefined) first.resolve(errors[0])
  }
  const server = createServer((request, response) => { void receive(request, response) })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => { server.close().closeAllConnections() })
  return { dsn: `http://key@127.0.0.1:${(server.address() as AddressInfo).port}/1`, errors, first: first.promise }
}

t.test('a shutdown callback sends the error of a request in flight; a rejected request is no error', async t => {
  const { dsn, errors } = await ingest(t)
  const service = await start(t, 'sentry', { SENTRY_DSN: dsn })
  const failing = service.get('/fails')
  await service.holds('/fails')
  await service.sigterm()
  const refused = await service.get('/fails')
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await failing, { status: 500, complete: true })
  const report = { completed: 1, refused: 1, cut: { length: 0 }, callbacks: [{ name: 'sentry' }], errors: { length: 0 } }
  t.match(await service.ended(), { code: 0, report, complaints: ['a handler failed'] })
  t.strictSame(errors, ['a handler failed'])
})

for (const [path, message] of [['/throws', 'nothing caught this'], ['/rejects', 'nothing handled this']] as const) {
  t.test(`an error that shuts the service down is sent, and requests in flight are answered (${path})`, { timeout: 60_000 }, async t => {
    const { dsn, errors } = await ingest(t)
    const service = await start(t, 'sentry', { SENTRY_DSN: dsn })
    const held = service.get('/held')
    await service.holds('/held')
    await service.get(path)
    await service.log.line(/^Shutting down: (uncaughtException|unhandledRejection)$/)
    await service.release()

    t.match(await held, { status: 200, complete: true, body: /^held$/ })
    t.match(await service.ended(), { code: 1, report: { completed: 1, cut: { length: 0 }, callbacks: [{ name: 'sentry' }] } })
    t.strictSame(errors, [message])
  })
}

t.test('with the default integrations, the service continues after an unhandled rejection', async t => {
  const { dsn, first } = await ingest(t)
  const service = await start(t, 'sentry', { SENTRY_DSN: dsn, DEFAULTS: '1' })
  await service.get('/rejects')
  t.equal(await first, 'nothing handled this')
  const held = service.get('/held')
  await service.holds('/held')
  await service.sigterm()
  await service.release()

  t.match(await held, { status: 200, complete: true, body: /^held$/ })
  t.match(await service.ended(), { code: 0, report: { reason: 'SIGTERM', completed: 1, cut: { length: 0 } } })
})
