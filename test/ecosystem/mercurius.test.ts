// mercurius: GraphQL queries, and subscriptions over a WebSocket.

import t from 'tap'
import { Readable } from 'node:stream'
import { start } from './service.ts'
import { Socket } from './socket.ts'

t.test('queries in flight are answered, and subscriptions are closed with 1001', { timeout: 60_000 }, async t => {
  const service = await start(t, 'mercurius')
  const socket = new Socket(service.port, '/graphql', 'graphql-transport-ws')
  await socket.opened()
  socket.send({ type: 'connection_init' })
  t.match(JSON.parse(await socket.message()), { type: 'connection_ack' })
  socket.send({ id: '1', type: 'subscribe', payload: { query: 'subscription { ticks }' } })
  t.match(JSON.parse(await socket.message()), { type: 'next', payload: { data: { ticks: 1 } } })
  const query = service.post('/graphql', Readable.from(['{"query":"{ hello }"}']), { 'content-type': 'application/json' })
  await service.holds('/graphql')
  await service.sigterm()
  const refused = await service.get('/graphql')
  await service.release()

  t.match(refused, { status: 503, complete: true })
  t.match(await query, { status: 200, complete: true, body: /^\{"data":\{"hello":"world"\}\}$/ })
  t.match(await socket.closed, { code: 1001 })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
