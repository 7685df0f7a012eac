'use strict'

const { once } = require('node:events')
const sse = require('@fastify/sse')
const { serve } = require('./serve.cjs')

serve(async app => {
  await app.register(sse)
  app.get('/events', { sse: 'only' }, async (request, reply) => {
    await reply.sse.send({ data: 'first' })
    request.log.info('holds /events')
    await once(app.gracefulShutdown.signal, 'abort')
    await reply.sse.send({ event: 'bye', data: 'last' })
  })

  // The streams end when the instance closes.
  const streams = new Set()
  app.get('/subscription', { sse: 'only' }, async (request, reply) => {
    reply.sse.keepAlive()
    streams.add(reply.sse)
    reply.sse.onClose(() => { streams.delete(reply.sse) })
    await reply.sse.send({ data: 'first' })
    request.log.info('holds /subscription')
  })
  app.addHook('preClose', async () => {
    for (const stream of streams) {
      await stream.send({ event: 'bye', data: 'last' })
      stream.close()
    }
  })
})
