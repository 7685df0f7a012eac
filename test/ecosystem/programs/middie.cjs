'use strict'

const { addMiddleware } = require('./recipes/addMiddleware.cjs')
const { hold, serve } = require('./serve.cjs')

serve(async app => {
  await addMiddleware(app)
  // The recipe's does not hold requests. One middleware that responds itself, and one that runs before the recipe's route.
  app.use('/report', async (request, response) => {
    await hold({ log: app.log, url: '/report' })
    response.end('report')
  })
  app.use('/route', async (request, response, next) => {
    await hold({ log: app.log, url: '/route' })
    next()
  })
})
