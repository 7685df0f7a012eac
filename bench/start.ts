// The program that is started and measured; see loading.ts.

import type { FastifyPluginAsync } from 'fastify'
import type { Start } from './loading.ts'
import '@fastify/error'
import 'close-with-grace'
import Fastify from 'fastify'
import fp from 'fastify-plugin'

const { SUBJECT = '' } = process.env
const here: Record<string, FastifyPluginAsync> = {
  empty: fp(async () => {}, { name: 'empty', fastify: '5.x' }),
  frame: fp(async app => {
    for (const name of ['onRequest', 'onResponse']) app.addHook(name as 'onRequest', (_request, _reply, done) => { done() })
    for (const name of ['onListen', 'preClose', 'onClose']) app.addHook(name as 'onClose', async () => {})
    for (const name of ['onRoute', 'onRegister']) app.addHook(name as 'onRoute', () => {})
    for (const name of ['gracefulShutdown', 'registerShutdownCallback', 'isShuttingDown', 'inFlightRequests']) app.decorate(name, null)
    app.decorateReply('exchange', null)
    app.register(async child => {
      for (const url of ['/health', '/ready']) child.get(url, async () => '')
    })
  }, { name: 'frame', fastify: '5.x' })
}
/** By a name that the compiler does not resolve. Those of this file call import() with what is loaded already. */
const name: string = SUBJECT in here ? 'fastify-plugin' : SUBJECT
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
await app.register(here[SUBJECT] ?? imported.default)
app.get('/', async () => 'hello world')
await app.ready()
start.register = passed()
console.log(JSON.stringify(start))
process.exit()
