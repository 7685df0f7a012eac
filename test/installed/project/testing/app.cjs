// The application that the test runners test with fastify-graceful/testing.

const Fastify = require('fastify')
const gracefulPlugin = require('fastify-graceful')

exports.buildApp = async ended => {
  const app = Fastify()
  await app.register(gracefulPlugin, { signals: ['SIGTERM'] })
  app.get('/orders', async () => {
    if (ended.includes('database')) throw new Error('the database is closed')
    return ['tea']
  })
  app.get('/events', (_request, reply) => {
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: hello\n\n')
    app.gracefulShutdown.signal.addEventListener('abort', () => { reply.raw.end('data: bye\n\n') })
  })
  app.registerShutdownCallback(() => { ended.push('database') }, { name: 'database' })
  return app
}
