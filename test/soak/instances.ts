// Thousands of instances in one process: each is created, serves an injected and a real request, and is closed.

import type { AddressInfo } from 'node:net'
import type { Sample } from './measure.ts'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import Fastify from 'fastify'
import gracefulPlugin from '../../index.ts'
import { measure } from './measure.ts'

const { COUNT = '1', EACH = '1', LEAK = '' } = process.env
const kept: unknown[] = []

for (let done = 1; done <= Number(COUNT); done++) {
  const app = Fastify()
  await app.register(gracefulPlugin)
  app.registerShutdownCallback(() => {}, { name: 'cleanup' })
  app.get('/', async () => ({ hello: 'world' }))
  await app.inject('/')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const [response] = await once(get({ port: (app.server.address() as AddressInfo).port, agent: false }), 'response') as [IncomingMessage]
  await once(response.resume(), 'end')
  await app.close()
  if (LEAK === 'heap') kept.push(app)
  if (LEAK === 'listeners') process.on('SIGUSR2', () => {})
  if (LEAK === 'timers') setInterval(() => {}, 60_000)
  if (done % Number(EACH) === 0 || done === Number(COUNT)) process.send?.(await measure(done, { process }) satisfies Sample)
}
process.disconnect()
