// @fastify/cors: what a browser may read.

import t from 'tap'
import { start } from './service.ts'

const ORIGIN = { origin: 'https://app.example' }
const READABLE = { 'access-control-allow-origin': 'https://app.example', 'access-control-expose-headers': 'retry-after' }

t.test('if it is registered before the plugin, a browser can read both the responses and the 503s', async t => {
  const service = await start(t, 'cors')
  const held = service.get('/held', ORIGIN)
  await service.holds('/held')
  await service.sigterm()
  const refused = await service.get('/held', ORIGIN)
  await service.release()

  t.match(refused, { status: 503, complete: true, headers: { ...READABLE, 'retry-after': '1' } })
  t.match(await held, { status: 200, complete: true, headers: READABLE })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
