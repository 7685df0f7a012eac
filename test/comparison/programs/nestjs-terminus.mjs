// As in NestJS's documentation: `enableShutdownHooks()`, `gracefulShutdownTimeoutMs`, a health controller; cleanup in
// `onApplicationShutdown`.

import 'reflect-metadata'
import { Controller, Get, Inject, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter } from '@nestjs/platform-fastify'
import { HealthCheckService, TerminusModule } from '@nestjs/terminus'
import { addRoutes, cleanup, listening, serverOptions, settings } from './service.mjs'

class Health {
  constructor (health) {
    this.health = health
  }

  async check () {
    return await this.health.check([])
  }

  async onApplicationShutdown () {
    await cleanup()
  }
}
// What decorators do, without a compiler.
Inject(HealthCheckService)(Health, undefined, 0)
Controller('ready')(Health)
Get()(Health.prototype, 'check', Object.getOwnPropertyDescriptor(Health.prototype, 'check'))
function App () {}
Module({ controllers: [Health], imports: [TerminusModule.forRoot({ gracefulShutdownTimeoutMs: settings.delay })] })(App)

for (let i = 0; i < settings.instances; i++) {
  const app = await NestFactory.create(App, new FastifyAdapter(serverOptions), { logger: ['error'] })
  app.enableShutdownHooks()
  await addRoutes(app.getHttpAdapter().getInstance())
  await app.listen(0, '127.0.0.1')
  listening(app.getHttpServer(), { path: '/ready' })
}
