// The program whose start is measured; see loading.ts.

import type { FastifyPluginAsync } from 'fastify'
import type { Start } from './loading.ts'
import '@fastify/error'
import 'close-with-grace'
import Fastify from 'fastify'
import fp from 'fastify-plugin'

const { SUBJECT = '' } = process.env
/** By a name that the compiler does not resolve. Without a subject, it is loaded already, so that both call import(). */
const name: string = SUBJECT || 'fastify-plugin'
const empty = fp(async () => {}, { name: 'empty', fastify: '5.x' })
const app = Fastify()

let before = process.cpuUsage()
const passed = (): number => {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1_000
}
/** Collects garbage, so that no collection falls into a step by chance. */
const begin = (): void => {
  gc?.({ type: 'minor' })
  before = process.cpuUsage()
}

begin()
const imported = await import(name) as { default: FastifyPluginAsync }
const start: Start = { import: passed(), register: 0 }
begin()
await app.register(SUBJECT === '' ? empty : imported.default)
app.get('/', async () => 'hello world')
await app.ready()
start.register = passed()
console.log(JSON.stringify(start))
process.exit()
