// @connectrpc/connect-fastify: RPCs whose handlers return promises that never settle.

import { Readable } from 'node:stream'
import t from 'tap'
import { start, type Answer, type Service } from './service.ts'

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
