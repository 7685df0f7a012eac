'use strict'

const middie = require('@fastify/middie')
const { hold, serve } = require('./serve.cjs')

serve(async app => {
  await app.register(middie)
  // One middleware that responds itself, and one that runs before a route.
  app.use('/legacy', async (request, response) => {
    await hold({ log: app.log, url: '/legacy' })
    response.end('legacy')
  })
  app.use('/route', async (request, response, next) => {
    await hold({ log: app.log, url: '/route' })
    next()
  })
  app.get('/route', async () => 'route')
})
