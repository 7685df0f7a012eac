// What a request may cost: what Fastify's own hooks cost, and no more. The benchmark counts instructions.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import type { HeapProfiler } from 'node:inspector/promises'
import { createHook } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { Session } from 'node:inspector/promises'
import { fileURLToPath } from 'node:url'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { Deferred, listen, RawClient } from './helpers.ts'

const REQUESTS = 1_000
/** Bytes. */
const LIMIT = 1_500
const HOME = fileURLToPath(new URL('..', import.meta.url))

/** Sends this number of requests over one keep-alive connection, each as soon as the last response has arrived. */
type Ask = (requests: number) => Promise<void>

async function serve (plugin: (app: FastifyInstance) => unknown): Promise<{ ask: Ask, close: () => Promise<void> }> {
  const app = Fastify()
  await plugin(app)
  app.get('/', async () => 'served')
  const client = new RawClient(await listen(app))
  let answered = new Deferred()
  client.socket.on('data', () => { answered.resolve() })
  const ask = async (requests: number) => {
    for (let request = 0; request < requests; request++) {
      answered = new Deferred()
      client.get('/')
      await answered.promise
      client.text = ''
    }
  }
  // Until the code is optimized and one-time allocations are done.
  await ask(2 * REQUESTS)
  return { ask, close: async () => { await app.close() } }
}

const withPair = (app: FastifyInstance): unknown => app
  .addHook('onRequest', (_request, _reply, done) => { done() })
  .addHook('onResponse', (_request, _reply, done) => { done() })

const withPlugin = async (app: FastifyInstance): Promise<void> => { await app.register(gracefulPlugin) }

/** The promises, timers and other async resources, by type, and listeners that a request creates. */
async function made (ask: Ask): Promise<Record<string, number>> {
  const counts: Record<string, number> = { listeners: 0 }
  const count = (what: string): void => { counts[what] = (counts[what] ?? 0) + 1 }
  const hook = createHook({ init: (_id, type) => { count(type) } }).enable()
  const adders = ['on', 'addListener', 'once', 'prependListener', 'prependOnceListener'] as const
  const restore = adders.map(name => {
    const { [name]: add } = EventEmitter.prototype
    EventEmitter.prototype[name] = function (event, listener) {
      count('listeners')
      return add.call(this, event, listener)
    }
    return () => { EventEmitter.prototype[name] = add }
  })
  await ask(REQUESTS)
  hook.disable()
  for (const undo of restore) undo()
  const perRequest = Object.entries(counts).map(([what, number]) => [what, Math.round(number / REQUESTS)] as const)
  return Object.fromEntries(perRequest.filter(([what, number]) => number > 0 || what === 'listeners'))
}

/** Bytes that code of this package allocates for a request. */
async function allocated (ask: Ask): Promise<number> {
  const session = new Session()
  session.connect()
  await session.post('HeapProfiler.startSampling', {
    samplingInterval: 64, includeObjectsCollectedByMajorGC: true, includeObjectsCollectedByMinorGC: true
  } as HeapProfiler.StartSamplingParameterType)
  await ask(REQUESTS)
  const { profile } = await session.post('HeapProfiler.stopSampling')
  session.disconnect()
  const bytes = ({ callFrame: { url }, selfSize, children }: HeapProfiler.SamplingHeapProfileNode): number =>
    (isOurs(url) ? selfSize : 0) + children.reduce((sum, child) => sum + bytes(child), 0)
  return bytes(profile.head) / REQUESTS
}

function isOurs (url: string): boolean {
  const path = url.startsWith('file:') ? fileURLToPath(url) : url
  return path.startsWith(`${HOME}lib/`) || path === `${HOME}index.ts`
}

t.test('a request allocates less than one and a half kilobytes in the plugin', async t => {
  const { ask, close } = await serve(withPlugin)
  // One-time allocations, such as those of V8's optimizer, do not occur in each round, so one round without them is enough.
  const rounds: number[] = []
  while (rounds.length < 5 && Math.min(...rounds) >= LIMIT) rounds.push(await allocated(ask))
  t.ok(Math.min(...rounds) < LIMIT, `${rounds.join(', ')} bytes a request`)
  await close()
})

t.test('a request creates no promise, timer or listener more than with an empty pair of hooks', async t => {
  const pair = await serve(withPair)
  const counts = await made(pair.ask)
  await pair.close()
  const plugin = await serve(withPlugin)
  t.strictSame(await made(plugin.ask), counts)
  await plugin.close()
})
