// socket.io: long polls on Fastify's server, which its `io.close()` ends.
// needs: preClose

import t from 'tap'
import { once } from 'node:events'
import { start } from './service.ts'
import { connectSocketIo } from './socket.ts'

for (const transport of ['websocket', 'polling'] as const) {
  t.test(`clients are disconnected as draining starts, and requests in flight are answered (${transport})`, async t => {
    const service = await start(t, 'socket.io')
    const { client, greeted } = connectSocketIo(t, service.port, transport)
    const disconnected = once(client, 'disconnect')
    await greeted
    const held = service.get('/held')
    await service.holds('/held')
    await service.sigterm()
    await disconnected
    await service.release()

    t.match(await held, { status: 200, complete: true })
    t.match(await service.ended(), { code: 0, report: { cut: [] }, complaints: [] })
  })
}
