// The application that the test runners test with fastify-graceful/testing, and what each of them checks.

const process = require('node:process')
const Fastify = require('fastify')
const gracefulPlugin = require('fastify-graceful')

async function buildApp (ended) {
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

/**
 * A deploy loses nothing.
 * @param testShutdown as the runner has loaded it
 * @param equal the runner's comparison of two values, in depth
 * @param after what makes the runner call a function after the test
 */
exports.deploy = async (testShutdown, equal, after) => {
  const ended = []
  const listeners = process.listenerCount('SIGTERM')
  const shutdown = await testShutdown(await buildApp(ended))
  after(async () => { await shutdown.close() })
  const orders = await shutdown.hold('/orders')
  const events = await shutdown.open('/events')

  shutdown.signal('SIGTERM')
  await shutdown.reached('draining')
  equal((await shutdown.request('/ready')).status, 503)
  equal((await events.response).body, 'data: hello\n\ndata: bye\n\n')
  equal(ended, [])
  equal((await orders.release()).body, '["tea"]')

  const { reason, exitCode } = await shutdown.report
  equal([reason, exitCode], ['SIGTERM', 0])
  equal(ended, ['database'])
  equal((await shutdown.request('/orders')).error, 'ECONNREFUSED')
  equal(process.listenerCount('SIGTERM'), listeners)
}
