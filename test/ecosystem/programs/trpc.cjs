'use strict'

const websocket = require('@fastify/websocket')
const { initTRPC } = require('@trpc/server')
const { fastifyTRPCPlugin } = require('@trpc/server/adapters/fastify')
const { setTimeout: sleep } = require('node:timers/promises')
const { addRouter } = require('./recipes/addRouter.cjs')
const { hold, serve } = require('./serve.cjs')

/** A router over WebSockets, which knows nothing of the shutdown. */
async function addSockets (app) {
  const t = initTRPC.create()
  const router = t.router({
    ticks: t.procedure.subscription(async function * ({ signal }) {
      for (let tick = 0; !signal.aborted; tick++) {
        yield tick
        await sleep(1_000, undefined, { signal }).catch(() => {})
      }
    })
  })
  await app.register(websocket)
  await app.register(fastifyTRPCPlugin, { prefix: '/sockets', useWSS: true, trpcOptions: { router } })
}

serve(async app => {
  app.addHook('preHandler', async request => { if (request.url === '/trpc/hello') await hold(request) })
  await addRouter(app)
  await addSockets(app)
})
