'use strict'

const { Readable } = require('node:stream')
const compress = require('@fastify/compress')
const { hold, serve } = require('./serve.cjs')

serve(async app => {
  await app.register(compress)
  app.get('/numbers', async (request, reply) => {
    async function * numbers () {
      yield '0\n'.repeat(100_000)
      await hold(request)
      yield '1\n'.repeat(100_000)
    }
    return reply.type('text/plain').send(Readable.from(numbers()))
  })
})
