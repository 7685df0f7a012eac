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
    if (process.env.AT_ONCE === undefined) await setTimeout(300)
    console.log(JSON.stringify({ level: 30, msg: 'onApplicationShutdown is done' }))
  }
}
// What decorators do, without a compiler.
Controller('orders')(Orders)
Get()(Orders.prototype, 'place', Object.getOwnPropertyDescriptor(Orders.prototype, 'place'))
Req()(Orders.prototype, 'place', 0)
function App () {}
Module({ controllers: [Orders] })(App)

class Worker {
  async onModuleDestroy () {
    // Longer than the plugin takes the same signal for a copy.
    await setTimeout(500)
    console.log(JSON.stringify({ level: 30, msg: 'the worker is done' }))
  }
}
function Jobs () {}
Module({ providers: [Worker] })(Jobs)

async function main () {
  const app = await NestFactory.create(App, new FastifyAdapter({ logger: true }), { logger: false })
  if (process.env.HOOKS !== undefined) app.enableShutdownHooks([], JSON.parse(process.env.HOOKS))
  await app.register(gracefulPlugin, JSON.parse(process.env.OPTIONS ?? '{}'))
  addRoutes(app.getHttpAdapter().getInstance())
  if (process.env.WITH_WORKER !== undefined) {
    const context = await NestFactory.createApplicationContext(Jobs, { logger: false })
    context.enableShutdownHooks()
  }
  await app.listen(0, '127.0.0.1')
}
void main()
