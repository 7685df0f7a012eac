import { once } from 'node:events'
import { get } from 'node:http'
import Fastify from 'fastify'
import gracefulPlugin, { gracefulPlugin as named } from 'fastify-graceful'
import { expect, test } from 'vitest'

test('serves and closes', async () => {
  expect(named).toBe(gracefulPlugin)
  const app = Fastify()
  await app.register(gracefulPlugin)
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  // Not fetch(): that of a DOM environment asks for permission first.
  const [response] = await once(get(`${address}/ready`), 'response')
  expect(response.resume().statusCode).toBe(200)
  expect((await app.inject('/health')).statusCode).toBe(200)
  await app.close()
  expect(app.gracefulShutdown.phase).toBe('closed')
})
