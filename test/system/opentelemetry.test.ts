// example/opentelemetry.ts with the SDK and an exporter that keeps the spans.

import t from 'tap'
import { SpanStatusCode } from '@opentelemetry/api'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { traceShutdowns } from '../../example/opentelemetry.ts'
import { createApp, fork, heldRoute, listen, portOf, RawClient } from '../helpers.ts'

t.test('a shutdown is one trace, with a span for each phase and callback', async t => {
  const exporter = new InMemorySpanExporter()
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  t.teardown(traceShutdowns(provider.getTracer('test')))
  const { app } = await createApp(t, { shutdownDelay: 10, drainTimeout: 100 })
  const { entered } = heldRoute(app)
  app.registerShutdownCallback(() => {}, { name: 'queue' })
  app.registerShutdownCallback(() => { throw new Error('down') }, { name: 'database' })
  const client = new RawClient(await listen(app)).get('/held')
  await entered
  await app.gracefulShutdown.shutdown('a test')
  await client.closed

  const spans = exporter.getFinishedSpans()
  const parents = Object.fromEntries(spans.map(({ name, parentSpanContext }) =>
    [name, spans.find(one => one.spanContext().spanId === parentSpanContext?.spanId)?.name]))
  t.strictSame(parents, {
    'delaying': 'shutdown', 'draining': 'shutdown', 'closing': 'shutdown', 'callback queue': 'closing', 'callback database': 'closing', 'shutdown': undefined
  })
  t.equal(new Set(spans.map(span => span.spanContext().traceId)).size, 1)
  const named = (name: string) => spans.find(span => span.name === name)
  t.match(named('shutdown'), {
    attributes: { 'shutdown.reason': 'a test', 'shutdown.cut': 1, 'shutdown.completed': 0 },
    status: { code: SpanStatusCode.ERROR },
    events: [{ name: 'cut', attributes: { code: 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT', name: '/held' } }]
  })
  t.match(named('callback database'), { status: { code: SpanStatusCode.ERROR, message: 'down' } })
  t.match(named('callback queue'), { status: { code: SpanStatusCode.UNSET } })
  const [seconds = 0, nanoseconds = 0] = named('draining')?.duration ?? []
  t.ok(seconds * 1_000 + nanoseconds / 1e6 >= 95)
})

t.test('ends with the function that it returns', async t => {
  const exporter = new InMemorySpanExporter()
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  const { app } = await createApp(t)
  traceShutdowns(provider.getTracer('test'))()
  await app.close()
  t.strictSame(exporter.getFinishedSpans(), [])
})

for (const fails of [0, 1]) {
  t.test(`the process sends the spans before it exits with code ${fails}`, async t => {
    const program = fork(t, 'traced', { FAILS: String(fails) })
    await portOf(program)
    program.kill('SIGTERM')
    const { spans } = await program.log.line(/^exported/)
    t.strictSame(spans, ['draining', ...fails === 1 ? ['callback database'] : [], 'closing', 'shutdown'])
    t.strictSame(await program.exit, { code: fails, signal: null }, program.output())
  })
}
