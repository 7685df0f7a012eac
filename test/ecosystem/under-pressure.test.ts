// @fastify/under-pressure: rejections under load.

import t from 'tap'
import { PassThrough } from 'node:stream'
import { start } from './service.ts'

t.test('a service under pressure still answers requests in flight, and its clients then read that it shuts down', async t => {
  const service = await start(t, 'under-pressure')
  t.match(await service.get('/status'), { status: 200, body: /"status":"ok"/ })
  const body = new PassThrough()
  body.write('half, ')
  const uploaded = service.post('/upload', body, { 'content-type': 'text/plain' })
  let answer = await service.get('/status')
  while (answer.status === 200) answer = await service.get('/status')
  t.match(answer, { status: 503, body: /FST_UNDER_PRESSURE/ })
  await service.sigterm()
  const refused = await service.get('/status')
  body.end('whole')

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await uploaded, { status: 200, complete: true, body: /^half, whole$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } } })
})

t.test('a service under pressure is alive', async t => {
  const service = await start(t, 'under-pressure')
  const body = new PassThrough()
  body.write('half, ')
  const uploaded = service.post('/upload', body, { 'content-type': 'text/plain' })
  let answer = await service.get('/status')
  while (answer.status === 200) answer = await service.get('/status')
  t.match(await service.get('/health'), { status: 200, body: /^\{"status":"healthy"\}$/ })
  t.match(await service.get('/ready'), { status: 200, body: /^\{"ready":true,"in_flight_requests":1\}$/ })
  await service.sigterm()
  t.match(await service.get('/ready'), { status: 503, body: /^\{"ready":false,"reason":"shutting_down"\}$/ })
  body.end('whole')

  t.match(await uploaded, { status: 200, complete: true })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 0, cut: { length: 0 } } })
})
