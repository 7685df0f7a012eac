import t from 'tap'
import { testShutdown } from 'fastify-graceful/testing'
import { deploy } from './app.cjs'

t.test('a deploy loses nothing', async t => {
  await deploy(testShutdown, (actual, expected) => { t.strictSame(actual, expected) }, close => { t.teardown(close) })
})
