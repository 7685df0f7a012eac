'use strict'

const mercurius = require('mercurius')
const { hold, serve } = require('./serve.cjs')

serve(async app => {
  const schema = `
    type Query { slow: String }
    type Subscription { ticks: Int }
  `
  const resolvers = {
    Query: {
      slow: async (_root, _arguments, { reply }) => {
        await hold(reply.request)
        return 'answered'
      }
    },
    Subscription: {
      ticks: {
        subscribe: async (_root, _arguments, { pubsub }) => {
          const ticks = await pubsub.subscribe('TICK')
          pubsub.publish({ topic: 'TICK', payload: { ticks: 1 } })
          return ticks
        }
      }
    }
  }
  await app.register(mercurius, { schema, resolvers, subscription: true })
})
