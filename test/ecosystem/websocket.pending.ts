// @fastify/websocket: its preClose hook closes the WebSockets.
// needs: preClose

import t from 'tap'
import { start } from './service.ts'
import { Socket } from './socket.ts'

for (const [env, closed] of [[{}, { code: 1001, reason: '' }], [{ PRE_CLOSE: '1' }, { code: 4000, reason: 'come back soon' }]] as const) {
  t.test(`WebSockets are closed with ${closed.code} as draining starts`, async t => {
    const service = await start(t, 'websocket', env)
    const socket = new Socket(service.port, '/echo')
    t.equal(await socket.message(), 'hello')
    const held = service.get('/held')
    await service.holds('/held')
    await service.sigterm()
    t.strictSame(await socket.closed, closed)
    await service.release()

    t.match(await held, { status: 200, complete: true })
    t.match(await service.ended(), { code: 0, report: { completed: 1, cut: [] }, complaints: [] })
  })
}
