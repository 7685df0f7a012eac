// @trpc/server with its Fastify adapter: queries and subscriptions.

import t from 'tap'
import { start } from './service.ts'
import { Socket } from './socket.ts'

t.test('queries in flight are answered, and subscriptions end with their generator', async t => {
  const service = await start(t, 'trpc')
  const subscription = service.stream('/trpc/ticks', ['accept: text/event-stream'])
  await subscription.until(/data: 0\n/)
  const query = service.get('/trpc/hello')
  await service.holds('/trpc/hello')
  await service.sigterm()
  const refused = await service.get('/trpc/hello')
  await subscription.until(/event: return\n/)
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await query, { status: 200, complete: true, body: /^\{"result":\{"data":"world"\}\}$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 2, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})

t.test('subscriptions over WebSockets are closed with 1001', async t => {
  const service = await start(t, 'trpc')
  const socket = new Socket(service.port, '/sockets', 'trpc')
  await socket.opened()
  socket.send({ id: 1, method: 'subscription', params: { path: 'ticks' } })
  let message = ''
  // The first messages may arrive together, and then only one of them is read.
  while (!/"data":\d/.test(message)) message = await socket.message()
  const query = service.get('/trpc/hello')
  await service.holds('/trpc/hello')
  await service.sigterm()
  t.match(await socket.closed, { code: 1001 })
  await service.release()

  t.match(await query, { status: 200, complete: true })
  t.match(await service.ended(), { code: 0, report: { completed: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
