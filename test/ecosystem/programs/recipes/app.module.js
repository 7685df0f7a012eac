'use strict'

// The application of the set-up in docs/nestjs.md.

require('reflect-metadata')
const { Controller, Get, Module } = require('@nestjs/common')

class Orders {
  list () { return 'orders' }
  onApplicationShutdown () { console.log('onApplicationShutdown is done') }
}
// What decorators do, without a compiler.
Controller('orders')(Orders)
Get()(Orders.prototype, 'list', Object.getOwnPropertyDescriptor(Orders.prototype, 'list'))

function AppModule () {}
Module({ controllers: [Orders] })(AppModule)
exports.AppModule = AppModule
