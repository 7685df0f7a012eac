// @fastify/reply-from: requests that another server answers.

import t from 'tap'
import { PassThrough } from 'node:stream'
import { start } from './service.ts'
import { listenUpstream } from './upstream.ts'

t.test('requests that are proxied at SIGTERM are answered completely', async t => {
  const upstream = await listenUpstream(t)
  const service = await start(t, 'reply-from', { UPSTREAM: upstream.url })
  const upload = new PassThrough()
  upload.write('half an upload, ')
  const answers = [service.get('/api/report'), service.post('/api/upload', upload, { 'content-type': 'application/octet-stream' })]
  await upstream.holds(2)
  await service.sigterm()
  const refused = await service.get('/api/report')
  upload.end('and the rest')
  upstream.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  const [report, uploaded] = await Promise.all(answers)
  t.match(report, { status: 200, complete: true, body: /^first last $/ })
  t.match(uploaded, { status: 200, complete: true, body: /^first last half an upload, and the rest$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 2, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
