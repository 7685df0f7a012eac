// A service in CommonJS. It writes its port when it listens.

const Fastify = require(process.env.FASTIFY)
const gracefulPlugin = require('fastify-graceful')
const { setTimeout: sleep } = require('node:timers/promises')

if (gracefulPlugin.default !== gracefulPlugin || gracefulPlugin.gracefulPlugin !== gracefulPlugin) throw new Error('not itself')

const app = Fastify()
app.register(gracefulPlugin, { shutdownDelay: 100 })
app.get('/', async () => {
  await sleep(20)
  return 'served'
})
app.listen({ port: 0, host: '127.0.0.1' }, () => { console.log(app.server.address().port) })
