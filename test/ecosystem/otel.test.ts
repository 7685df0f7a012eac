// @fastify/otel with the OpenTelemetry SDK: spans.

import t from 'tap'
import { start } from './service.ts'

for (const FIRST of ['otel', 'graceful']) {
  t.test(`a shutdown callback exports the spans of requests in flight (${FIRST} first)`, async t => {
    // A delay so long that only shutdown() exports spans.
    const service = await start(t, 'otel', { FIRST, OTEL_BSP_SCHEDULE_DELAY: '60000' })
    const placed = service.get('/orders')
    await service.holds('/orders')
    await service.sigterm()
    const refused = await service.get('/orders')
    await service.release()

    t.match(refused, { status: 503, complete: true })
    t.match(await placed, { status: 200, complete: true })
    const report = { completed: 1, refused: 1, cut: { length: 0 }, callbacks: [{ name: 'traces' }] }
    t.match(await service.ended(), { code: 0, report, complaints: { length: 0 } })
    const spans = service.log.messages(/^exported: /)
    for (const span of ['exported: request 200', 'exported: handler - placeOrder']) t.ok(spans.includes(span), spans.join(', '))
  })
}
