import process from 'node:process'
import { testShutdown } from 'fastify-graceful/testing'
import { expect, onTestFinished, test } from 'vitest'
import { buildApp } from './app.cjs'

test('a deploy loses nothing', async () => {
  const ended = []
  const listeners = process.listenerCount('SIGTERM')
  const shutdown = await testShutdown(await buildApp(ended))
  onTestFinished(async () => { await shutdown.close() })
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
