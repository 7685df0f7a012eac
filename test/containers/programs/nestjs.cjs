'use strict'

// NestJS with its own shutdown hooks. With OPEN, something keeps Node running, such as a pool that is not closed.

require('reflect-metadata')
const { Module } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')
const { FastifyAdapter } = require('@nestjs/platform-fastify')
const gracefulPlugin = require('fastify-graceful')

function App () {}
Module({})(App)

async function main () {
  const app = await NestFactory.create(App, new FastifyAdapter({ logger: true }), { logger: false })
  app.enableShutdownHooks()
  await app.register(gracefulPlugin, { shutdownTimeout: 3_000, drainTimeout: 2_000 })
  await app.listen(3000, '0.0.0.0')
}
if (process.env.OPEN === '1') setInterval(() => {}, 1_000)
void main()
