'use strict'

const rateLimit = require('@fastify/rate-limit')
const { serve } = require('./serve.cjs')

serve(async app => {
  await app.register(rateLimit, { max: 2, timeWindow: 60_000 })
  app.get('/', async () => 'served')
})
