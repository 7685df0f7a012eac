// @fastify/http-proxy: requests that another server answers.

import t from 'tap'
import { PassThrough } from 'node:stream'
import { start } from './service.ts'
import { Socket } from './socket.ts'
import { listenUpstream } from './upstream.ts'

t.test('requests that are proxied at SIGTERM are answered completely', async t => {
  const upstream = await listenUpstream(t)
  const service = await start(t, 'http-proxy', { UPSTREAM: upstream.url })
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

t.test('proxied WebSockets are closed, and requests in flight are answered', async t => {
  const upstream = await start(t, 'websocket')
  const service = await start(t, 'http-proxy', { UPSTREAM: `http://127.0.0.1:${upstream.port}` })
  const socket = new Socket(service.port, '/live/echo')
  t.equal(await socket.message(), 'hello')
  const held = service.get('/held')
  await service.holds('/held')
  await service.sigterm()
  await service.release()

  t.match(await held, { status: 200, complete: true })
  // Closed with a close frame.
  t.not((await socket.closed).code, 1006)
  t.match(await service.ended(), { code: 0, report: { completed: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
