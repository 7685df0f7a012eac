'use strict'

// @connectrpc/connect-fastify. With ABORT_AFTER, its own preClose hook aborts RPCs that time after the drain has begun, in milliseconds.

const { create } = require('@bufbuild/protobuf')
const { StringValueSchema } = require('@bufbuild/protobuf/wkt')
const { fastifyConnectPlugin } = require('@connectrpc/connect-fastify')
const { greeter } = require('./greeter.cjs')
const { hold, serve } = require('./serve.cjs')

const { ABORT_AFTER, STREAM } = process.env
const greeting = ({ value }) => create(StringValueSchema, { value: `hello ${value}` })

serve(async app => {
  app.addHook('onRoute', route => {
    if (route.url.startsWith('/greeter.')) route.config = { ...route.config, gracefulShutdown: { waitFor: 'response' } }
  })
  await app.register(fastifyConnectPlugin, {
    ...ABORT_AFTER !== undefined && { shutdownTimeoutMs: Number(ABORT_AFTER) },
    routes: router => router.service(greeter, {
      greet: greeting,
      hold: async name => {
        await hold({ log: app.log, url: '/greeter.Greeter/Hold' })
        return greeting(name)
      },
      // Goes on until connect aborts its signal.
      async * stream (name, { signal }) {
        yield greeting(name)
        app.log.info('holds /greeter.Greeter/Stream')
        await new Promise(resolve => { signal.addEventListener('abort', resolve) })
        if (STREAM === 'fails') signal.throwIfAborted()
        yield greeting({ value: 'for the last time' })
      }
    })
  })
})
