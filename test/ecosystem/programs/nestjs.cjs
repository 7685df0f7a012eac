'use strict'

require('reflect-metadata')
const { setTimeout } = require('node:timers/promises')
const { Controller, Get, Module, Req } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')
const { FastifyAdapter } = require('@nestjs/platform-fastify')
const gracefulPlugin = require('fastify-graceful')
const { addRoutes, hold } = require('./serve.cjs')

class Orders {
  async place (request) {
    await hold(request)
    return 'placed'
  }

  async onApplicationShutdown () {
    // Stands for a write to a database.
    await setTimeout(300)
    console.log(JSON.stringify({ level: 30, msg: 'onApplicationShutdown is done' }))
  }
}
// What decorators do, without a compiler.
Controller('orders')(Orders)
Get()(Orders.prototype, 'place', Object.getOwnPropertyDescriptor(Orders.prototype, 'place'))
Req()(Orders.prototype, 'place', 0)
function App () {}
Module({ controllers: [Orders] })(App)

async function main () {
  const app = await NestFactory.create(App, new FastifyAdapter({ logger: true }), { logger: false })
  if (process.env.HOOKS !== undefined) app.enableShutdownHooks([], JSON.parse(process.env.HOOKS))
  await app.register(gracefulPlugin)
  addRoutes(app.getHttpAdapter().getInstance())
  await app.listen(0, '127.0.0.1')
}
void main()
