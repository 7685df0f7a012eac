'use strict'

require('reflect-metadata')
const { setTimeout } = require('node:timers/promises')
const { Controller, Get, Module, Req } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')
const { FastifyAdapter } = require('@nestjs/platform-fastify')
const gracefulPlugin = require('fastify-graceful')
const { addCallbacks } = require('./recipes/addCallbacks.cjs')
const { register } = require('./recipes/register.cjs')
const { addRoutes, hold } = require('./serve.cjs')

const log = msg => { console.log(JSON.stringify({ level: 30, msg })) }

class Orders {
  async place (request) {
    await hold(request)
    return 'placed'
  }

  async onModuleDestroy () {
    if (process.env.RECIPE === undefined) return
    // Longer than the shutdown of the plugin would take.
    await setTimeout(500)
    log('onModuleDestroy is done')
  }

  async onApplicationShutdown () {
    // Stands for a write to a database.
    if (process.env.AT_ONCE === undefined) await setTimeout(300)
    log('onApplicationShutdown is done')
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
    log('the worker is done')
  }
}
function Jobs () {}
Module({ providers: [Worker] })(Jobs)

async function main () {
  const app = await NestFactory.create(App, new FastifyAdapter({ logger: true }), { logger: false })
  if (process.env.HOOKS !== undefined) app.enableShutdownHooks([], JSON.parse(process.env.HOOKS))
  // RECIPE: with the recipe for slow hooks.
  if (process.env.RECIPE === undefined) await app.register(gracefulPlugin, JSON.parse(process.env.OPTIONS ?? '{}'))
  else await register(app)
  addCallbacks(app, { end: async () => { log('the database is closed') } })
  addRoutes(app.getHttpAdapter().getInstance())
  if (process.env.WITH_WORKER !== undefined) {
    const context = await NestFactory.createApplicationContext(Jobs, { logger: false })
    context.enableShutdownHooks()
  }
  await app.listen(0, '127.0.0.1')
}
void main()
