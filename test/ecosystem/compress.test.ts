// @fastify/compress: responses that are compressed as they are sent.

import t from 'tap'
import { gunzipSync } from 'node:zlib'
import { start } from './service.ts'

t.test('a response that is being compressed at SIGTERM is sent completely', async t => {
  const service = await start(t, 'compress')
  const download = service.get('/numbers', { 'accept-encoding': 'gzip' })
  await service.holds('/numbers')
  await service.sigterm()
  await service.release()

  const { body, ...answer } = await download
  t.match(answer, { status: 200, headers: { 'content-encoding': 'gzip' }, complete: true })
  t.equal(gunzipSync(body).toString(), '0\n'.repeat(100_000) + '1\n'.repeat(100_000))
  t.match(await service.ended(), { code: 0, report: { completed: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})

t.test('a request that is rejected while draining gets its 503, compressed or not', async t => {
  const service = await start(t, 'compress')
  const held = service.get('/held')
  await service.holds('/held')
  await service.sigterm()
  const refused = await service.get('/numbers', { 'accept-encoding': 'gzip' })
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await held, { status: 200, complete: true })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
