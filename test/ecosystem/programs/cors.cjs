'use strict'

const cors = require('@fastify/cors')
const { serve } = require('./serve.cjs')

// Before the graceful plugin, so that a browser can also read the 503s.
serve(async () => {}, { before: async app => { await app.register(cors, { origin: 'https://app.example', exposedHeaders: ['retry-after'] }) } })
