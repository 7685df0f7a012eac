'use strict'

const { join } = require('node:path')
const autoload = require('@fastify/autoload')
const gracefulPlugin = require('fastify-graceful')
const fp = require('fastify-plugin')

// In the root instance, because fastify-cli would otherwise give the application its own context.
module.exports = fp(async function app (fastify, _options) {
  await fastify.register(gracefulPlugin)
  await fastify.register(autoload, { dir: join(__dirname, 'plugins') })
  await fastify.register(autoload, { dir: join(__dirname, 'routes') })
})
