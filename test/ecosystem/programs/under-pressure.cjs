'use strict'

const underPressure = require('@fastify/under-pressure')
const { serve } = require('./serve.cjs')

serve(async app => {
  // Uploads put it under pressure.
  const healthCheck = async () => !app.gracefulShutdown.inFlight().some(({ url }) => url === '/upload')
  await app.register(underPressure, { exposeStatusRoute: true, healthCheckInterval: 10, healthCheck })
  app.post('/upload', async request => request.body)
})
