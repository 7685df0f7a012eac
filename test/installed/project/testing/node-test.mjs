import assert from 'node:assert/strict'
import process from 'node:process'
import { test } from 'node:test'
import { testShutdown } from 'fastify-graceful/testing'
import { buildApp } from './app.cjs'

void test('a deploy loses nothing', async t => {
  const ended = []
  const listeners = process.listenerCount('SIGTERM')
  const shutdown = await testShutdown(await buildApp(ended))
  t.after(async () => { await shutdown.close() })
  const orders = await shutdown.hold('/orders')
  const events = await shutdown.open('/events')

  shutdown.signal('SIGTERM')
  await shutdown.reached('draining')
  assert.equal((await shutdown.request('/ready')).status, 503)
  assert.equal((await events.response).body, 'data: hello\n\ndata: bye\n\n')
  assert.deepEqual(ended, [])
  assert.equal((await orders.release()).body, '["tea"]')

  const { reason, exitCode } = await shutdown.report
  assert.deepEqual([reason, exitCode], ['SIGTERM', 0])
  assert.deepEqual(ended, ['database'])
  assert.equal((await shutdown.request('/orders')).error, 'ECONNREFUSED')
  assert.equal(process.listenerCount('SIGTERM'), listeners)
})
