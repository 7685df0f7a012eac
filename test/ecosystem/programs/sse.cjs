'use strict'

const events = require('./recipes/events.cjs')
const subscriptions = require('./recipes/subscriptions.cjs')
const { serve } = require('./serve.cjs')

serve(async app => {
  // Each registers @fastify/sse in its own context.
  await app.register(events)
  await app.register(subscriptions)
})
