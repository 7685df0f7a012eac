// What must hold for any options and any callbacks, tried with thousands of them.

import t from 'tap'
import { createRequire } from 'node:module'
import { inspect } from 'node:util'
import * as fc from 'fast-check'
import Fastify from 'fastify'
import type * as Sinon from 'sinon'
import { DEFAULTS, resolveOptions } from '../lib/options.ts'

interface CodedError extends Error { code: string }

const RUNS = process.env['LONG_TESTS'] === undefined ? 400 : 2_000
/** The first 5 % are tried again and again, the rest are new each time; a failure prints the seed. */
const check = async (property: fc.IAsyncProperty<unknown> | fc.IProperty<unknown>): Promise<void> => {
  await fc.assert(property as fc.IAsyncProperty<unknown>, { numRuns: RUNS / 20, seed: 1 })
  await fc.assert(property as fc.IAsyncProperty<unknown>, { numRuns: RUNS })
}

const CODES = new Set(['FST_ERR_GRACEFUL_OPTION_INVALID', 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', 'FST_ERR_GRACEFUL_BUDGET'])
const LARGEST = 2 ** 31 - 1
/** Mostly what somebody may write. */
const anyTime = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 60_000 }) },
  { weight: 1, arbitrary: fc.integer({ min: -1, max: LARGEST + 1 }) }
)
const cleanup = (shutdownTimeout: number): number => Math.min(500, shutdownTimeout / 10)

function resolved (options: object): ReturnType<typeof resolveOptions> | CodedError {
  try {
    return resolveOptions(options)
  } catch (error) {
    return error as CodedError
  }
}

t.test('any combination of times either fits or is rejected with the sum that is too large', async t => {
  const times = { shutdownTimeout: anyTime, drainTimeout: anyTime, shutdownDelay: anyTime }
  await check(fc.property(fc.record(times, { requiredKeys: [] }), given => {
    const options = resolved(given)
    const { shutdownTimeout = DEFAULTS.shutdownTimeout, drainTimeout, shutdownDelay = 0 } = given
    const most = Math.floor(shutdownTimeout - cleanup(shutdownTimeout))
    const all = [shutdownTimeout, shutdownDelay, drainTimeout ?? 0]
    const isInRange = shutdownTimeout >= 1 && all.every(value => value >= 0 && value <= LARGEST)
    if (options instanceof Error) {
      const isTooLong = shutdownDelay + (drainTimeout ?? 0) > most
      return options.code === (isInRange ? 'FST_ERR_GRACEFUL_BUDGET' : 'FST_ERR_GRACEFUL_OPTION_INVALID') && (!isInRange || isTooLong)
    }
    return isInRange && options.shutdownDelay.max + options.drainTimeout <= most &&
      options.drainTimeout === (drainTimeout ?? options.drainTimeout) && options.drainTimeout <= (drainTimeout ?? DEFAULTS.drainTimeout)
  }))
  t.pass()
})

t.test('an adaptive delay is accepted if quiet is from 1 to max', async t => {
  await check(fc.property(anyTime, anyTime, (max, quiet) => {
    const options = resolved({ shutdownTimeout: LARGEST, shutdownDelay: { max, quiet } })
    const isRight = Number.isInteger(max) && max >= 1 && max <= LARGEST - 500 && quiet >= 1 && quiet <= max
    return options instanceof Error ? !isRight : isRight && options.shutdownDelay.quiet === quiet && options.shutdownDelay.max === max
  }))
  t.pass()
})

t.test('a value of any kind is accepted as it is, or rejected with the name of its option and the value', async t => {
  const anything = fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true, withTypedArray: true })
  const names = Object.keys(DEFAULTS) as Array<keyof typeof DEFAULTS>
  await check(fc.property(fc.constantFrom(...names), anything, (name, value) => {
    const options = resolved({ [name]: value })
    if (options instanceof Error) return CODES.has(options.code) && options.message.includes(name)
    // What is accepted is what was given, or a default for undefined.
    if (typeof value === 'number') return [options[name], options.shutdownDelay.max].includes(value)
    return value === undefined || typeof value === 'boolean' || typeof value === 'string' || typeof value === 'object'
  }))
  t.pass()
})

t.test('options are frozen, the given object is unchanged, and resolving twice gives the same', async t => {
  const options = fc.record({
    shutdownTimeout: fc.integer({ min: 1_000, max: 60_000 }),
    readTimeout: fc.oneof(fc.constant(false), fc.integer({ min: 1, max: 60_000 })),
    signals: fc.oneof(fc.boolean(), fc.uniqueArray(fc.constantFrom('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2', 'beforeExit'), { minLength: 1 })),
    health: fc.oneof(fc.constant(false), fc.constant('/alive'), fc.record({ checkTimeout: fc.integer({ min: 1, max: 1_000 }) }))
  }, { requiredKeys: [] })
  await check(fc.property(options, given => {
    const before = inspect(given, { depth: 9 })
    const first = resolveOptions(given)
    return Object.isFrozen(first) && inspect(given, { depth: 9 }) === before && inspect(resolveOptions(given)) === inspect(first)
  }))
  t.pass()
})

t.test('shutdown callbacks', async t => {
  // While the callbacks load their clock; the test runner's timers are real. Sinon's ES module does not fake those of node:timers.
  const sinon = createRequire(import.meta.url)('sinon') as typeof Sinon
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  const [{ Callbacks }, { Channels }, { SafeLog }, { now, wholeTurn }] = await Promise.all([
    import('../lib/lifecycle/callbacks.ts'), import('../lib/lifecycle/channels.ts'), import('../lib/lifecycle/log.ts'), import('../lib/clock.ts')
  ])
  clock.restore()
  // Still, so that a deadline less the time is the limit.
  const date = sinon.useFakeTimers({ toFake: ['Date'] })
  t.teardown(() => { date.restore() })
  const app = Fastify({ logger: { level: 'silent' } })
  const { log } = app

  /** How long it takes; Infinity: it hangs. */
  const taken = fc.oneof(fc.integer({ min: 0, max: 8_000 }), fc.constant(Infinity))
  const drawn = (blocks: fc.Arbitrary<number>) => fc.record({
    time: fc.integer({ min: 1, max: 2_000 }),
    callbacks: fc.array(fc.record({
      takes: taken, fails: fc.boolean(), blocks, timeout: fc.option(fc.integer({ min: 1, max: 30_000 }), { nil: undefined })
    }), { minLength: 1, maxLength: 8 })
  })
  const scenario = drawn(fc.constant(0))
  type Scenario = typeof scenario extends fc.Arbitrary<infer S> ? S : never

  interface Run { start: number, limit: number, end: number, code: string | undefined }

  async function run ({ time, callbacks }: Scenario): Promise<{ runs: Run[], took: number }> {
    const all = new Callbacks(30_000, new SafeLog(log), new Channels(app))
    const begin = now()
    const starts: Array<Pick<Run, 'start' | 'limit'>> = []
    for (const { takes, fails, blocks, timeout } of callbacks) {
      all.register(async ({ deadline }) => {
        starts.push({ start: now() - begin, limit: deadline - Date.now() })
        if (blocks > 0) clock.tick(blocks)
        await new Promise(resolve => { if (takes < Infinity) clock.setTimeout(resolve, takes) })
        if (fails) throw new Error('failed')
      }, timeout === undefined ? {} : { timeout })
    }
    const ended = all.run('test', begin + time).then(() => now() - begin)
    let took: number | undefined
    while (took === undefined) {
      await clock.nextAsync()
      // A time limit that has passed waits for a turn of the event loop.
      await wholeTurn()
      took = await Promise.race([ended, wholeTurn().then(() => undefined)])
    }
    const runs = all.reports.map(({ time: spent, error }, index) => {
      const { start, limit } = starts[index] as Run
      return { start, limit, end: start + spent, code: (error as CodedError | undefined)?.code ?? error?.message }
    })
    return { runs, took }
  }

  /** Times are rounded to whole milliseconds, by timers and in reports. */
  const ROUNDED = 1
  const property = (holds: (scenario: Scenario, result: Awaited<ReturnType<typeof run>>) => boolean): fc.IAsyncProperty<unknown> =>
    fc.asyncProperty(scenario, async input => holds(input, await run(input)))

  await t.test('end by the deadline, one after another, each with one report', async t => {
    await check(property(({ time, callbacks }, { runs, took }) =>
      runs.length === callbacks.length && took <= time + callbacks.length * ROUNDED &&
        runs.every(({ start }, index) => index === 0 || start >= (runs[index - 1] as Run).end - ROUNDED)))
    t.pass()
  })

  await t.test('succeed or fail as they did if they end in time, and time out if not', async t => {
    await check(property(({ callbacks }, { runs }) => runs.every(({ limit, code }, index) => {
      const { takes, fails } = callbacks[index] as Scenario['callbacks'][number]
      // Either may happen at the very limit.
      if (Math.abs(takes - limit) <= ROUNDED) return true
      return code === (takes > limit ? 'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT' : fails ? 'failed' : undefined)
    })))
    t.pass()
  })

  await t.test('have at least half of an equal share of the whole time, whatever the earlier ones take', async t => {
    await check(property(({ time, callbacks }, { runs }) => runs.every(({ limit }, index) => {
      const { timeout = Infinity } = callbacks[index] as Scenario['callbacks'][number]
      return limit >= Math.min(timeout, time / callbacks.length / 2 - callbacks.length * ROUNDED)
    })))
    t.pass()
  })

  await t.test('have at most their own timeout, and all of it if the later ones keep half of an equal share', async t => {
    await check(property(({ time, callbacks }, { runs }) => runs.every(({ start, limit }, index) => {
      const { timeout } = callbacks[index] as Scenario['callbacks'][number]
      if (timeout === undefined) return true
      const free = time - start - (callbacks.length - index - 1) * time / callbacks.length / 2
      return limit <= timeout + ROUNDED && limit >= Math.min(timeout, free) - ROUNDED
    })))
    t.pass()
  })

  await t.test('have an equal share of the time left, if earlier ones have blocked the event loop for longer than their time', async t => {
    await check(fc.asyncProperty(drawn(fc.integer({ min: 0, max: 9_000 })), async input => {
      const { time, callbacks } = input
      const { runs } = await run(input)
      return runs.length === callbacks.length && runs.every(({ start, limit }, index) => {
        const { timeout = Infinity } = callbacks[index] as Scenario['callbacks'][number]
        return limit >= Math.min(timeout, Math.max(0, time - start) / (callbacks.length - index)) - ROUNDED
      })
    }))
    t.pass()
  })
})
