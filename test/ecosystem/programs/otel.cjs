'use strict'

const { FastifyOtelInstrumentation } = require('@fastify/otel')
const { BatchSpanProcessor } = require('@opentelemetry/sdk-trace-base')
const { NodeTracerProvider } = require('@opentelemetry/sdk-trace-node')
const { addTracing } = require('./recipes/addTracing.cjs')
const { hold, serve } = require('./serve.cjs')

const exporter = {
  export: (spans, done) => {
    for (const { attributes, name } of spans) {
      console.log(JSON.stringify({ level: 30, msg: `exported: ${name} ${attributes['http.response.status_code'] ?? ''}`.trim() }))
    }
    done({ code: 0 })
  },
  shutdown: async () => {}
}

// FIRST: which of the two plugins is registered first. The recipe is for an instance that has the plugin.
const isFirst = process.env.FIRST === 'otel'
const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(exporter)] })
serve(async app => {
  if (isFirst) app.registerShutdownCallback(async () => { await provider.shutdown() }, { name: 'traces' })
  else await addTracing(app, exporter)
  app.get('/orders', async function placeOrder (request) {
    await hold(request)
    return 'placed'
  })
}, {
  before: async app => {
    if (!isFirst) return
    provider.register()
    const instrumentation = new FastifyOtelInstrumentation({ instrumentHooks: false })
    instrumentation.setTracerProvider(provider)
    await app.register(instrumentation.plugin())
  }
})
