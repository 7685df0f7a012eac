'use strict'

const { FastifyOtelInstrumentation } = require('@fastify/otel')
const { BatchSpanProcessor } = require('@opentelemetry/sdk-trace-base')
const { NodeTracerProvider } = require('@opentelemetry/sdk-trace-node')
const { hold, serve } = require('./serve.cjs')

const exported = []
const exporter = {
  export: (spans, done) => {
    exported.push(...spans)
    done({ code: 0 })
  },
  shutdown: async () => {}
}
// A delay so long that only shutdown() exports spans.
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(exporter, { scheduledDelayMillis: 60_000 })] })
provider.register()

async function addTracing (app) {
  const instrumentation = new FastifyOtelInstrumentation({ instrumentHooks: false })
  instrumentation.setTracerProvider(provider)
  await app.register(instrumentation.plugin())
}

// FIRST: which of the two plugins is registered first.
const isFirst = process.env.FIRST === 'otel'
serve(async app => {
  if (!isFirst) await addTracing(app)
  app.get('/orders', async function placeOrder (request) {
    await hold(request)
    return 'placed'
  })
  app.registerShutdownCallback(async ({ log }) => {
    await provider.shutdown()
    for (const { attributes, name } of exported) log.info(`exported: ${name} ${attributes['http.response.status_code'] ?? ''}`.trim())
  }, { name: 'traces' })
}, { before: async app => { if (isFirst) await addTracing(app) } })
