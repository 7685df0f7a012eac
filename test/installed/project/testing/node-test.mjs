import assert from 'node:assert/strict'
import { test } from 'node:test'
import { testShutdown } from 'fastify-graceful/testing'
import { deploy } from './app.cjs'

void test('a deploy loses nothing', async t => {
  await deploy(testShutdown, assert.deepEqual, close => { t.after(close) })
})
