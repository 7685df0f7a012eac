'use strict'

const { addGraphQL } = require('./recipes/addGraphQL.cjs')
const { hold, serve } = require('./serve.cjs')

serve(async app => {
  app.addHook('preHandler', async request => { if (request.body?.query === '{ hello }') await hold(request) })
  await addGraphQL(app)
  // Until one arrives, because a subscription may begin at any time.
  const ticking = setInterval(() => { app.graphql.pubsub.publish({ topic: 'TICK', payload: { ticks: 1 } }) }, 50)
  app.addHook('preClose', async () => { clearInterval(ticking) })
})
