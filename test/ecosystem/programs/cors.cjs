'use strict'

const cors = require('@fastify/cors')
const { serve } = require('./serve.cjs')

// Ahead of the graceful plugin, so that a browser may also read what that refuses.
serve(async () => {}, { before: async app => { await app.register(cors, { origin: 'https://app.example', exposedHeaders: ['retry-after'] }) } })
