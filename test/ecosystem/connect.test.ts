// @connectrpc/connect-fastify: RPCs whose handlers return promises that never settle, and streams that its preClose hook ends.

import { Readable } from 'node:stream'
import t from 'tap'
import { requireInstalled, start, type Answer, type Service } from './service.ts'

async function call (service: Service, method: string): Promise<Answer> {
  return await service.post(`/greeter.Greeter/${method}`, Readable.from(['"world"']), { 'content-type': 'application/json' })
}

t.test('RPCs in flight are answered, and the drain waits for no RPC that has been answered', async t => {
  const service = await start(t, 'connect')
  t.match(await call(service, 'Greet'), { status: 200, complete: true, body: /hello world/ })
  const held = call(service, 'Hold')
  await service.holds('/greeter.Greeter/Hold')
  await service.sigterm()
  const refused = await call(service, 'Greet')
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await held, { status: 200, complete: true, body: /hello world/ })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})

interface Greeting { value: string }

/** Calls the RPC that streams, with connect's own client. */
function openStream ({ port }: Service): AsyncIterator<Greeting> {
  type CreateClient = (service: unknown, transport: unknown) => { stream: (name: Greeting) => AsyncIterable<Greeting> }
  const { createClient } = requireInstalled('@connectrpc/connect') as { createClient: CreateClient }
  const { createConnectTransport } = requireInstalled('@connectrpc/connect-node') as { createConnectTransport: (options: object) => unknown }
  const { greeter } = requireInstalled('./greeter.cjs') as { greeter: unknown }
  const transport = createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: '1.1' })
  return createClient(greeter, transport).stream({ value: 'world' })[Symbol.asyncIterator]()
}

const ABORT_AFTER = 300

for (const [what, STREAM] of [['its last message and its end', 'ends'], ['an error', 'fails']] as const) {
  t.test(`a stream that is open at SIGTERM ends when connect's preClose hook aborts it, and its client reads ${what}`, async t => {
    const service = await start(t, 'connect', { ABORT_AFTER: String(ABORT_AFTER), STREAM })
    const stream = openStream(service)
    t.match(await stream.next(), { done: false, value: { value: 'hello world' } })
    await service.holds('/greeter.Greeter/Stream')
    await service.sigterm()

    if (STREAM === 'ends') {
      t.match(await stream.next(), { done: false, value: { value: 'hello for the last time' } })
      t.match(await stream.next(), { done: true })
    } else await t.rejects(stream.next(), { name: 'ConnectError', rawMessage: 'internal error' }, 'as connect reports any error of a handler')
    const { code, report, complaints } = await service.ended()
    t.match({ code, report, complaints }, { code: 0, report: { completed: 1, refused: 0, cut: { length: 0 } }, complaints: { length: 0 } })
    const draining = report?.phases.draining ?? 0
    t.ok(draining >= ABORT_AFTER - 10 && draining < ABORT_AFTER + 3_000, `drained for ${draining}ms, not until drainTimeout`)
  })
}
