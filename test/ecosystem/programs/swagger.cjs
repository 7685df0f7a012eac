'use strict'

const swagger = require('@fastify/swagger')
const { serve } = require('./serve.cjs')

serve(async app => {
  app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger())
}, { before: async app => { await app.register(swagger, { openapi: { info: { title: 'api', version: '1' } } }) } })
