// @fastify/websocket: WebSockets.

import t from 'tap'
import { start } from './service.ts'
import { Socket } from './socket.ts'

for (const [what, env, closed] of [
  ['1001', {}, { code: 1001, reason: '' }],
  ['what a preClose hook of the user sets', { PRE_CLOSE: '1' }, { code: 4000, reason: 'come back soon' }]
] as const) {
  t.test(`WebSockets are closed with ${what}, and requests in flight are answered`, async t => {
    const service = await start(t, 'websocket', env)
    const socket = new Socket(service.port, '/echo')
    t.equal(await socket.message(), 'hello')
    socket.send('echo')
    t.equal(await socket.message(), 'echo')
    const held = service.get('/held')
    await service.holds('/held')
    await service.sigterm()
    const refused = await service.get('/held')
    await service.release()

    t.match(refused, { status: 503, complete: true })
    t.match(await held, { status: 200, complete: true })
    t.strictSame(await socket.closed, closed)
    t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
  })
}

for (const [env, closed] of [[{}, { code: 1001, reason: '' }], [{ PRE_CLOSE: '1' }, { code: 4000, reason: 'come back soon' }]] as const) {
  t.test(`WebSockets are closed with ${closed.code} when draining starts`, async t => {
    const service = await start(t, 'websocket', env)
    const socket = new Socket(service.port, '/echo')
    t.equal(await socket.message(), 'hello')
    const held = service.get('/held')
    await service.holds('/held')
    await service.sigterm()
    t.strictSame(await socket.closed, closed)
    const refused = await service.get('/held')
    await service.release()

    t.match(refused, { status: 503, complete: true })
    t.match(await held, { status: 200, complete: true })
    t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
  })
}
