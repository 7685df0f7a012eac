// @fastify/swagger: the description of the routes.

import t from 'tap'
import { start } from './service.ts'

t.test('the routes are described as without the plugin, and requests in flight are answered', async t => {
  const service = await start(t, 'swagger')
  const description = await service.get('/openapi.json')
  t.match(JSON.parse(description.body.toString()), { paths: { '/held': { get: {} }, '/health': { get: {} }, '/ready': { get: {} } } })
  const held = service.get('/held')
  await service.holds('/held')
  await service.sigterm()
  const refused = await service.get('/openapi.json')
  await service.release()

  t.match(refused, { status: 503, complete: true })
  t.match(await held, { status: 200, complete: true })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
