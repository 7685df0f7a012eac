'use strict'

const cors = require('@fastify/cors')
const { serve } = require('./serve.cjs')

const register = async app => { await app.register(cors, { origin: process.env.ORIGIN, exposedHeaders: ['retry-after'] }) }

// Before the graceful plugin, so that a browser can also read the 503s.
if (process.env.ORDER === 'before') serve(async () => {}, { before: register })
else serve(register)
