'use strict'

// @connectrpc/connect-fastify, with a service that is described here instead of in a generated file.

const { create, createFileRegistry } = require('@bufbuild/protobuf')
const { FileDescriptorProtoSchema, StringValueSchema, file_google_protobuf_wrappers: wrappers } = require('@bufbuild/protobuf/wkt')
const { fastifyConnectPlugin } = require('@connectrpc/connect-fastify')
const { hold, serve } = require('./serve.cjs')

const type = '.google.protobuf.StringValue'
const file = create(FileDescriptorProtoSchema, {
  name: 'greeter.proto',
  package: 'greeter',
  syntax: 'proto3',
  dependency: [wrappers.proto.name],
  service: [{ name: 'Greeter', method: [{ name: 'Greet', inputType: type, outputType: type }, { name: 'Hold', inputType: type, outputType: type }] }]
})
const greeter = createFileRegistry(file, () => wrappers.proto).getService('greeter.Greeter')
const greeting = ({ value }) => create(StringValueSchema, { value: `hello ${value}` })

serve(async app => {
  app.addHook('onRoute', route => {
    if (route.url.startsWith('/greeter.')) route.config = { ...route.config, gracefulShutdown: { waitFor: 'response' } }
  })
  await app.register(fastifyConnectPlugin, {
    routes: router => router.service(greeter, {
      greet: greeting,
      hold: async name => {
        await hold({ log: app.log, url: '/greeter.Greeter/Hold' })
        return greeting(name)
      }
    })
  })
})
