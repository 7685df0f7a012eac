// @fastify/middie: middleware.

import t from 'tap'
import { start } from './service.ts'

t.test('requests that middleware holds at SIGTERM are answered, by the middleware or by their route', async t => {
  const service = await start(t, 'middie')
  t.match(await service.get('/legacy'), { status: 200, complete: true, body: /^legacy$/ })
  const answers = [service.get('/report'), service.get('/route')]
  await Promise.all([service.holds('/report'), service.holds('/route')])
  await service.sigterm()
  const refused = await Promise.all([service.get('/legacy'), service.get('/route')])
  await service.release()

  for (const answer of refused) t.match(answer, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  const [report, route] = await Promise.all(answers)
  t.match(report, { status: 200, complete: true, body: /^report$/ })
  t.match(route, { status: 200, complete: true, body: /^route$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 2, refused: 2, cut: { length: 0 } }, complaints: { length: 0 } })
})
