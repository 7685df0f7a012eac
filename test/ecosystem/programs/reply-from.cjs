'use strict'

const replyFrom = require('@fastify/reply-from')
const { serve } = require('./serve.cjs')

serve(async app => {
  await app.register(replyFrom, { base: process.env.UPSTREAM })
  // A proxy streams bodies.
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => { done(null, payload) })
  app.all('/api/*', (request, reply) => reply.from(request.url))
})
