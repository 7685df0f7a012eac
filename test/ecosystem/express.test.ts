// @fastify/express: middleware.

import t from 'tap'
import { start } from './service.ts'

t.test('requests that middleware holds at SIGTERM are answered, by the middleware or by their route', async t => {
  const service = await start(t, 'express')
  const answers = [service.get('/legacy'), service.get('/route')]
  await Promise.all([service.holds('/legacy'), service.holds('/route')])
  await service.sigterm()
  const refused = await Promise.all([service.get('/legacy'), service.get('/route')])
  await service.release()

  for (const answer of refused) t.match(answer, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  const [legacy, route] = await Promise.all(answers)
  t.match(legacy, { status: 200, complete: true, body: /^legacy$/ })
  t.match(route, { status: 200, complete: true, body: /^route$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 2, refused: 2, cut: { length: 0 } }, complaints: { length: 0 } })
})
