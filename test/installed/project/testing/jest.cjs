const { testShutdown } = require('fastify-graceful/testing')
const { deploy } = require('./app.cjs')

let close
afterEach(async () => { await close() })

test('a deploy loses nothing', async () => {
  await deploy(testShutdown, (actual, expected) => { expect(actual).toEqual(expected) }, then => { close = then })
})
