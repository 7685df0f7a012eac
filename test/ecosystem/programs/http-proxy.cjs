'use strict'

const httpProxy = require('@fastify/http-proxy')
const { serve } = require('./serve.cjs')

serve(async app => {
  await app.register(httpProxy, { upstream: process.env.UPSTREAM, prefix: '/api' })
  await app.register(httpProxy, { upstream: process.env.UPSTREAM, prefix: '/live', websocket: true })
})
