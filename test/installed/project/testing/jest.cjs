const process = require('node:process')
const { testShutdown } = require('fastify-graceful/testing')
const { buildApp } = require('./app.cjs')

let shutdown
afterEach(async () => { await shutdown.close() })

test('a deploy loses nothing', async () => {
  const ended = []
  const listeners = process.listenerCount('SIGTERM')
  shutdown = await testShutdown(await buildApp(ended))
  const orders = await shutdown.hold('/orders')
  const events = await shutdown.open('/events')

  shutdown.signal('SIGTERM')
  await shutdown.reached('draining')
  expect((await shutdown.request('/ready')).status).toBe(503)
  expect((await events.response).body).toBe('data: hello\n\ndata: bye\n\n')
  expect(ended).toEqual([])
  expect((await orders.release()).body).toBe('["tea"]')

  const { reason, exitCode } = await shutdown.report
  expect([reason, exitCode]).toEqual(['SIGTERM', 0])
  expect(ended).toEqual(['database'])
  expect((await shutdown.request('/orders')).error).toBe('ECONNREFUSED')
  expect(process.listenerCount('SIGTERM')).toBe(listeners)
})
