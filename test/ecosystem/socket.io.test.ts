// socket.io: WebSockets on Fastify's server.

import t from 'tap'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { start } from './service.ts'
import { connectSocketIo } from './socket.ts'

t.test('clients are disconnected, and requests in flight are answered', async t => {
  const service = await start(t, 'socket.io')
  const { client, greeted } = connectSocketIo(t, service.port, 'websocket')
  const disconnected = once(client, 'disconnect')
  await greeted
  const body = new PassThrough()
  body.write('half, ')
  const uploaded = service.post('/upload', body, { 'content-type': 'text/plain' })
  await service.log.line(/^incoming request$/)
  await service.sigterm()
  body.end('whole')

  t.match(await uploaded, { status: 200, complete: true, body: /^half, whole$/ })
  t.match(await disconnected, ['transport close'])
  t.match(await service.ended(), { code: 0, report: { completed: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})

for (const transport of ['websocket', 'polling'] as const) {
  t.test(`clients are disconnected when draining starts, and requests in flight are answered (${transport})`, async t => {
    const service = await start(t, 'socket.io')
    const { client, greeted } = connectSocketIo(t, service.port, transport)
    const disconnected = once(client, 'disconnect')
    await greeted
    const body = new PassThrough()
    body.write('half, ')
    const uploaded = service.post('/upload', body, { 'content-type': 'text/plain' })
    await service.log.line(/^incoming request$/)
    await service.sigterm()
    await disconnected
    body.end('whole')

    t.match(await uploaded, { status: 200, complete: true, body: /^half, whole$/ })
    t.match(await service.ended(), { code: 0, report: { cut: { length: 0 } }, complaints: { length: 0 } })
  })
}
