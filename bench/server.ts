// The measured program. Its parent sends it questions.

import type { AddressInfo } from 'node:net'
import type { Answer, Question } from './program.ts'
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { promisify } from 'node:util'
import Fastify from 'fastify'
import { SUBJECTS } from './subjects.ts'

const { SUBJECT = '', LOGGER = '' } = process.env
const subject = SUBJECTS[SUBJECT]
if (subject === undefined) throw new Error(`There is no subject "${SUBJECT}"`)

// SIGTERM answers a request in flight at once. This listener is added first, so that it runs before any that closes something.
const released = once(process, 'SIGTERM')
const app = Fastify({ logger: LOGGER === '' ? false : await createLogger() })
await subject.register?.(app)
// Not the only route, as in most applications. With a single route, V8 inlines more, and a request takes 1 to 3 % less.
app.get('/', async () => ({ hello: 'world' }))
let waiting = 0
app.get('/held', async () => {
  waiting++
  await released
  return { hello: 'world' }
})
// Referenced here, as a database client references its pending queries, so that it is not garbage-collected.
const never = new Promise(() => {})
app.get('/stuck', async () => {
  waiting++
  await never
})
await app.listen({ port: 0, host: '127.0.0.1' })
await subject.attach?.(app)

/**
 * Each line is written synchronously, because the number of lines that a thread writes together varies. pino is loaded only here,
 * as in Fastify, because code that V8 has already run in other packages changes how it optimizes the shared parts.
 */
async function createLogger () {
  const { default: pino } = await import('pino')
  return { stream: pino.destination({ dest: '/dev/null', sync: true }) }
}

const READS = { each: 200_000, times: 10 }

/** Nanoseconds to read `inFlightRequests`: the minimum of several runs, because other work only adds to it. */
function readTime (): number {
  let least = Infinity
  for (let time = 0; time < READS.times; time++) {
    let sum = 0
    const start = performance.now()
    for (let index = 0; index < READS.each; index++) sum += app.inFlightRequests
    if (sum >= 0) least = Math.min(least, (performance.now() - start) * 1e6 / READS.each)
  }
  return least
}

/** Bytes of live objects on the heap. */
function heapUsed (): number {
  const { gc } = globalThis as { gc?: () => void }
  if (gc === undefined) throw new Error('Run with --expose-gc')
  for (let pass = 0; pass < 3; pass++) gc()
  return process.memoryUsage().heapUsed
}

const answers: Record<Question, () => number | Promise<number>> = {
  heapUsed,
  readTime,
  waiting: () => waiting,
  connections: async () => await promisify(app.server.getConnections.bind(app.server))(),
  /** Microseconds of processor time so far. */
  cpu: () => {
    const { user, system } = process.cpuUsage()
    return user + system
  }
}
const tell = (message: Answer): void => { process.send?.(message) }
process.on('message', (question: Question) => {
  void Promise.resolve(answers[question]()).then(value => { tell({ question, value }) })
})
// The channel must not keep the process alive.
process.channel?.unref()
tell({ question: 'port', value: (app.server.address() as AddressInfo).port })
