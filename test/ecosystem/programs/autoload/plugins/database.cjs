'use strict'

const fp = require('fastify-plugin')

module.exports = fp(async function database (fastify) {
  const connection = { isOpen: true, query: () => connection.isOpen ? 'row' : 'the connection is closed' }
  fastify.decorate('database', connection)
  fastify.registerShutdownCallback(() => { connection.isOpen = false }, { name: 'database' })
})
