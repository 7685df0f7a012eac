// socket.io: WebSockets on Fastify's server.

import t from 'tap'
import { once } from 'node:events'
import { start } from './service.ts'
import { connectSocketIo } from './socket.ts'

t.test('clients are disconnected, and requests in flight are answered', async t => {
  const service = await start(t, 'socket.io')
  const { client, greeted } = connectSocketIo(t, service.port, 'websocket')
  const disconnected = once(client, 'disconnect')
  await greeted
  const held = service.get('/held')
  await service.holds('/held')
  await service.sigterm()
  await service.release()

  t.match(await held, { status: 200, complete: true })
  t.match(await disconnected, ['transport close'])
  t.match(await service.ended(), { code: 0, report: { completed: 1, cut: [] }, complaints: [] })
})
