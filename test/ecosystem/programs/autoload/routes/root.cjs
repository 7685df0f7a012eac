'use strict'

const { addRoutes, hold } = require('../../serve.cjs')

module.exports = async function routes (fastify) {
  addRoutes(fastify)
  fastify.get('/rows', async request => {
    await hold(request)
    return fastify.database.query()
  })
}
