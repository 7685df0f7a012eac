// @fastify/rate-limit: a limit for each client.

import t from 'tap'
import { start } from './service.ts'

t.test('requests in flight are answered, and while draining a client over its limit gets the 503', async t => {
  const service = await start(t, 'rate-limit')
  const held = service.get('/held')
  await service.holds('/held')
  const before = []
  for (let times = 0; times < 3; times++) before.push((await service.get('/')).status)
  t.strictSame(before, [200, 200, 429])
  await service.sigterm()
  const refused = await service.get('/')
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await held, { status: 200, complete: true })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})

t.test('probes are not limited', async t => {
  const service = await start(t, 'rate-limit')
  const statuses = []
  for (let times = 0; times < 5; times++) statuses.push((await service.get('/health')).status, (await service.get('/ready')).status)
  t.strictSame(new Set(statuses), new Set([200]))
  await service.sigterm()
  t.match(await service.ended(), { code: 0, report: { cut: { length: 0 } }, complaints: { length: 0 } })
})
