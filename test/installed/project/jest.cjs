// Over a socket, because Fastify's inject() does not load in Jest on Node 20.

const http = require('node:http')
const Fastify = require('fastify')
const gracefulPlugin = require('fastify-graceful')

test('serves and closes', async () => {
  expect(gracefulPlugin.default).toBe(gracefulPlugin)
  expect(gracefulPlugin.gracefulPlugin).toBe(gracefulPlugin)
  const app = Fastify()
  await app.register(gracefulPlugin)
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  const status = await new Promise((resolve, reject) => {
    http.get(`${address}/ready`, response => { response.resume().on('end', () => { resolve(response.statusCode) }) }).on('error', reject)
  })
  expect(status).toBe(200)
  await app.close()
  expect(app.gracefulShutdown.phase).toBe('closed')
})
