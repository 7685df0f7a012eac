import { testShutdown } from 'fastify-graceful/testing'
import { expect, onTestFinished, test } from 'vitest'
import { deploy } from './app.cjs'

test('a deploy loses nothing', async () => {
  await deploy(testShutdown, (actual, expected) => { expect(actual).toEqual(expected) }, onTestFinished)
})
