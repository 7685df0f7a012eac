import process from 'node:process'
import t from 'tap'
import { testShutdown } from 'fastify-graceful/testing'
import { buildApp } from './app.cjs'

t.test('a deploy loses nothing', async t => {
  const ended = []
  const listeners = process.listenerCount('SIGTERM')
  const shutdown = await testShutdown(await buildApp(ended))
  t.teardown(async () => { await shutdown.close() })
  const orders = await shutdown.hold('/orders')
  const events = await shutdown.open('/events')

  shutdown.signal('SIGTERM')
  await shutdown.reached('draining')
  t.equal((await shutdown.request('/ready')).status, 503)
  t.equal((await events.response).body, 'data: hello\n\ndata: bye\n\n')
  t.same(ended, [])
  t.equal((await orders.release()).body, '["tea"]')

  const { reason, exitCode } = await shutdown.report
  t.same([reason, exitCode], ['SIGTERM', 0])
  t.same(ended, ['database'])
  t.equal((await shutdown.request('/orders')).error, 'ECONNREFUSED')
  t.equal(process.listenerCount('SIGTERM'), listeners)
})
