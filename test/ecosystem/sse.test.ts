// @fastify/sse: event streams.

import t from 'tap'
import { start } from './service.ts'

for (const [what, path] of [
  ['an event stream that listens to gracefulShutdown.signal ends with its last event, and the drain continues', '/events'],
  ['event streams that a preClose hook ends are over when draining starts', '/subscription']
] as const) {
  t.test(what, async t => {
    const service = await start(t, 'sse')
    const client = service.stream(path, ['Accept: text/event-stream'])
    const held = service.get('/held')
    await Promise.all([client.until(/data: "first"\n/), service.holds('/held')])
    await service.sigterm()
    await client.closed
    const refused = await service.get('/held')
    await service.release()

    t.match(refused, { status: 503, complete: true })
    t.match(client.text, /^HTTP\/1\.1 200 OK\r\n[^]*data: "first"\n\n[^]*event: bye\ndata: "last"\n\n\r\n0\r\n\r\n$/)
    t.match(await held, { status: 200, complete: true })
    t.match(await service.ended(), { code: 0, report: { completed: 2, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
  })
}
