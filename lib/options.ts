// The options: their defaults, and their validation.

import type { FastifySchema } from 'fastify'
import type { AdaptiveDelay, GracefulOptions, HealthProbeOptions, ProcessEvent, GracefulRouteOptions, CallbackOptions } from '../types/index.ts'
import type { GracefulMetricsOptions } from '../types/prometheus.ts'
import { types } from 'node:util'
import { isMainThread } from 'node:worker_threads'
import { BudgetError, CrashSignalError, OptionInvalidError, OptionUnknownError, WorkerThreadError } from './errors.ts'
import { CHECK_TIMEOUT, CLEANUP, LONGEST_TIMER, partOf, PERHAPS_SECONDS } from './times.ts'
import { show } from './values.ts'

/** The events that `signals: true` stands for. */
export const DEFAULT_EVENTS: readonly ProcessEvent[] = [
  'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'uncaughtException', 'unhandledRejection'
]

/** The controller's key for the events of its instance. Symbol.for(), because fastify-graceful/testing is bundled separately. */
export const kSignals = Symbol.for('fastify-graceful.signals')

/** The events that `signals` may name. Operators use SIGUSR2 for heap snapshots and reports, so it is not a default. */
export const PROCESS_EVENTS: readonly ProcessEvent[] = [...DEFAULT_EVENTS, 'SIGUSR2', 'beforeExit']

/**
 * The signals of a crash. A listener freezes a process that crashes, because the faulty instruction runs again and again. It
 * also replaces the trap handler with which V8 turns an out-of-bounds access of WebAssembly into an exception.
 */
export const CRASH_SIGNALS = ['SIGSEGV', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGABRT'] as const

export const DEFAULTS = {
  shutdownTimeout: 30_000,
  drainTimeout: 25_000,
  shutdownDelay: 0,
  spread: 0,
  readTimeout: 10_000,
  writeTimeout: 10_000,
  idleTimeout: 120_000,
  signals: true,
  health: '/health',
  ready: '/ready'
} as const

const PROBE_OPTIONS = ['path', 'checks', 'checkTimeout', 'guarded', 'schema', 'config', 'logLevel']
const HEALTH_OPTIONS = [...PROBE_OPTIONS, 'duringShutdown']
const ROUTE_OPTIONS: Array<keyof RouteOptions> = ['readTimeout', 'writeTimeout', 'onShutdown', 'waitFor']

/** The part of the time left by `shutdownDelay` that `drainTimeout` takes if it is not given. */
const DRAIN_PART = 5 / 6

/** Fastify's own options of register(). They have no effect on a plugin that, like this one, has no context of its own. */
const REGISTER_OPTIONS = ['prefix', 'logLevel', 'logSerializers']

const AUTOLOAD_ADVICE = '. @fastify/autoload passes its options to each plugin that it loads. To configure fastify-graceful there, ' +
  'load a file that exports fp(async app => { await app.register(gracefulPlugin, { ... }) }), with fp from fastify-plugin'

export type Timeout = number | false

/** What a route has set for itself. */
export type RouteOptions = Exclude<GracefulRouteOptions, false>

/** By the object that the user has given. Kept, because that may have getters, or change after it has been validated. */
const RESOLVED = new WeakMap<RouteOptions, RouteOptions>()

export interface Probe extends Readonly<Required<Omit<HealthProbeOptions, 'logLevel' | 'schema'>>> {
  readonly schema: FastifySchema | undefined
  readonly logLevel: string | undefined
}

/** Options after validation: complete and frozen. */
export interface Options extends Readonly<Required<Omit<GracefulOptions, 'shutdownDelay' | 'signals' | 'health' | 'ready'>>> {
  readonly shutdownDelay: Readonly<AdaptiveDelay>
  readonly signals: readonly ProcessEvent[]
  readonly health: Probe | false
  readonly ready: Probe | false
  /** The names of all options that the user gave; other timeouts yield to Fastify's. */
  readonly given: ReadonlySet<string>
}

/** Validates the user's options without changing them. */
export function resolveOptions (input: GracefulOptions): Options {
  assertObject(input, 'options of fastify-graceful')
  known('option', input, Object.keys(DEFAULTS), REGISTER_OPTIONS, AUTOLOAD_ADVICE)
  const given = givenOf(input, Object.keys(DEFAULTS) as Array<keyof GracefulOptions>)
  const options = { ...DEFAULTS, ...given } as Required<GracefulOptions>
  const shutdownTimeout = milliseconds('option "shutdownTimeout"', options.shutdownTimeout, 1)
  const shutdownDelay = delay(options.shutdownDelay)
  const most = Math.floor(shutdownTimeout - partOf(shutdownTimeout, CLEANUP))
  const fitting = Math.min(DEFAULTS.drainTimeout, Math.floor((shutdownTimeout - shutdownDelay.max) * DRAIN_PART), most - shutdownDelay.max)
  const { drainTimeout = Math.max(0, fitting) } = given
  const resolved: Options = {
    shutdownTimeout,
    drainTimeout: milliseconds('option "drainTimeout"', drainTimeout, 0),
    shutdownDelay,
    spread: milliseconds('option "spread"', options.spread, 0, shutdownDelay.max + drainTimeout, ', shutdownDelay plus drainTimeout'),
    readTimeout: timeout('option "readTimeout"', options.readTimeout),
    writeTimeout: timeout('option "writeTimeout"', options.writeTimeout),
    idleTimeout: timeout('option "idleTimeout"', options.idleTimeout),
    signals: processEvents(options.signals),
    health: probe('health', options.health),
    ready: probe('ready', options.ready),
    given: new Set(Object.keys(given))
  }
  if (shutdownDelay.max + drainTimeout > most) throw new BudgetError(shutdownDelay.max, drainTimeout, most, shutdownTimeout)
  return Object.freeze(resolved)
}

/** The timeouts given that look as if they were meant in seconds. A short `shutdownDelay` makes sense. */
export function perhapsSeconds (options: Options): Array<[name: string, value: number]> {
  const names = ['shutdownTimeout', 'drainTimeout', 'readTimeout', 'writeTimeout', 'idleTimeout'] as const
  return names.map((name): [string, number] => [name, Number(options[name])])
    .filter(([name, value]) => options.given.has(name) && value > 0 && value < PERHAPS_SECONDS)
}

/** Validates a route's `config.gracefulShutdown`. */
export function resolveRouteOptions (url: string, config: GracefulRouteOptions = {}): GracefulRouteOptions {
  if (config === false) return config
  const name = `config.gracefulShutdown of route "${url}"`
  assertValid(isObject(config), name, config, 'false or an object')
  known(`option of ${name}:`, config, ROUTE_OPTIONS)
  const given = givenOf(config, ROUTE_OPTIONS)
  const { onShutdown, waitFor, ...timeouts } = given
  for (const [option, value] of Object.entries(timeouts)) timeout(`"${option}" in ${name}`, value)
  assertValid(['end', undefined].includes(onShutdown), `"onShutdown" in ${name}`, onShutdown, "'end'")
  assertValid(['response', undefined].includes(waitFor), `"waitFor" in ${name}`, waitFor, "'response'")
  RESOLVED.set(config, given)
  return given
}

/** What `resolveRouteOptions` has returned for a route's `config.gracefulShutdown`; none for a route that is older than the plugin. */
export function routeOptionsOf (config: unknown): RouteOptions {
  return RESOLVED.get(config as RouteOptions) ?? {}
}

/** Validates the options of a shutdown callback. */
export function resolveCallbackOptions (options: CallbackOptions, shutdownTimeout: number): CallbackOptions {
  assertObject(options, 'options of a shutdown callback')
  known('option of a shutdown callback', options, ['name', 'timeout', 'when'])
  const { name, when } = options
  assertValid(['start', 'end', undefined].includes(when), 'option "when" of a shutdown callback', when, "'start' or 'end'")
  const isName = name === undefined || (typeof name === 'string' && name !== '')
  assertValid(isName, 'option "name" of a shutdown callback', name, 'a string that is not empty')
  if (options.timeout !== undefined) milliseconds('option "timeout" of a shutdown callback', options.timeout, 1, shutdownTimeout)
  return options
}

/** Validates the options of `fastify-graceful/prometheus`. */
export function resolveMetricsOptions (options: GracefulMetricsOptions): { register: GracefulMetricsOptions['register'], prefix: string } {
  assertObject(options, 'options of fastify-graceful/prometheus')
  known('option', options, ['register', 'prefix'], REGISTER_OPTIONS)
  const { register, prefix = 'fastify_graceful_' } = options
  // Not instanceof: the registry may be of another copy of prom-client.
  const isRegistry = register === undefined || typeof (register as Partial<typeof register> | null)?.registerMetric === 'function'
  assertValid(isRegistry, 'option "register"', register, 'a Registry of prom-client')
  const isPrefix = typeof prefix === 'string' && /^[a-z_]\w*$/i.test(prefix)
  assertValid(isPrefix, 'option "prefix"', prefix, 'letters, digits and underscores, first a letter or an underscore')
  return { register, prefix }
}

export function assertValid (isValid: boolean, name: string, value: unknown, allowed: string): asserts isValid {
  if (!isValid) throw new OptionInvalidError(name, show(value), allowed)
}

function assertObject (options: unknown, name: string): void {
  assertValid(isObject(options), name, options, 'an object')
}

function milliseconds (name: string, value: unknown, least: number, most = LONGEST_TIMER, others = ''): number {
  const isValid = typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
  assertValid(isValid, name, value, `a whole number of milliseconds from ${least} to ${most}${others}`)
  return value
}

/** With a fixed delay, `quiet` is as long as `max`, so it never ends the delay early. */
function delay (value: unknown): AdaptiveDelay {
  if (!isObject(value)) {
    const max = milliseconds('option "shutdownDelay"', value, 0, LONGEST_TIMER, ', or an object with max and quiet')
    return { max, quiet: max }
  }
  known('option of "shutdownDelay":', value, ['max', 'quiet'])
  const given = value as Partial<AdaptiveDelay>
  const max = milliseconds('option "max" of "shutdownDelay"', given.max, 1)
  return { max, quiet: milliseconds('option "quiet" of "shutdownDelay"', given.quiet, 1, max, ', the value of max') }
}

function timeout (name: string, value: unknown): Timeout {
  return value !== false && milliseconds(name, value, 1, LONGEST_TIMER, ', or false')
}

function processEvents (value: unknown): readonly ProcessEvent[] {
  if (value === true) return DEFAULT_EVENTS
  if (value === false) return []
  const allowed = `true, false or a list out of ${PROCESS_EVENTS.join(', ')}`
  assertValid(Array.isArray(value) && value.length > 0, 'option "signals"', value, allowed)
  // Without holes, which every() would skip.
  const events = [...new Set<ProcessEvent>(value)]
  const crash = CRASH_SIGNALS.find(signal => value.includes(signal))
  if (crash !== undefined) throw new CrashSignalError(crash)
  assertValid(events.every(event => PROCESS_EVENTS.includes(event)), 'option "signals"', value, allowed)
  const signal = events.find(event => event.startsWith('SIG'))
  if (signal !== undefined && !isMainThread) throw new WorkerThreadError(signal)
  return events
}

function probe (name: 'health' | 'ready', value: unknown): Probe | false {
  if (value === false) return false
  const options: unknown = typeof value === 'string' ? { path: value } : value
  assertValid(isObject(options), `option "${name}"`, value, 'a path, an object or false')
  known(`option of "${name}":`, options, name === 'health' ? HEALTH_OPTIONS : PROBE_OPTIONS)
  const {
    path = DEFAULTS[name], checks = {}, checkTimeout = CHECK_TIMEOUT, guarded = false, schema, config = {}, logLevel, duringShutdown = 503
  } = options as HealthProbeOptions
  const isPath = typeof path === 'string' && /^\/[^\s?#:*]*$/.test(path)
  const option = typeof value === 'string' ? `option "${name}"` : `option "path" of "${name}"`
  assertValid(isPath, option, path, 'a path with a leading slash, without parameters')
  const areChecks = isPlainObject(checks) && Object.values(checks).every(check => typeof check === 'function')
  assertValid(areChecks, `option "checks" of "${name}"`, checks, 'a plain object of named functions')
  assertValid(['string', 'undefined'].includes(typeof logLevel), `option "logLevel" of "${name}"`, logLevel, "one of the logger's levels")
  milliseconds(`option "checkTimeout" of "${name}"`, checkTimeout, 1)
  assertValid(typeof guarded === 'boolean', `option "guarded" of "${name}"`, guarded, 'true or false')
  assertValid(schema === undefined || isObject(schema), `option "schema" of "${name}"`, schema, "a route's schema, an object")
  assertValid(isObject(config), `option "config" of "${name}"`, config, "a route's config, an object")
  assertValid([200, 503].includes(duringShutdown), `option "duringShutdown" of "${name}"`, duringShutdown, '200 or 503')
  return Object.freeze({ path, checks: Object.freeze({ ...checks }), checkTimeout, guarded, schema, config, logLevel, duringShutdown })
}

/** The options that are given. Read by name, because an instance of a class may inherit them. */
function givenOf<T extends object> (options: T, names: ReadonlyArray<keyof T>): Partial<T> {
  return Object.fromEntries(names.map(name => [name, options[name]]).filter(([, value]) => value !== undefined)) as Partial<T>
}

export function known (what: string, options: object, names: string[], tolerated: string[] = [], advice = ''): void {
  const unknown = Object.keys(options).find(name => !names.includes(name) && !tolerated.includes(name))
  if (unknown === undefined) return
  const similar = names.find(name => distance(name.toLowerCase(), unknown.toLowerCase()) <= MOST_TYPOS)
  const hint = similar === undefined ? '' : ` (did you mean "${similar}"?)`
  throw new OptionUnknownError(`${what} "${unknown}"${hint}`, names.join(', '), advice)
}

/** How many letters of a misspelt name may be wrong, missing or too many. */
const MOST_TYPOS = 2

/** The edit distance of two words (Levenshtein). */
function distance (from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let index = 0; index < from.length; index++) {
    const next = [index + 1]
    for (let column = 1; column <= to.length; column++) {
      const replaced = row[column - 1] as number + Number(from[index] !== to[column - 1])
      next.push(Math.min(replaced, row[column] as number + 1, next[column - 1] as number + 1))
    }
    row = next
  }
  return row[to.length] as number
}

/** Objects without options as properties, such as the promise of a forgotten `await`: each option would silently get its default. */
const NOT_OPTIONS = [Array.isArray, types.isPromise, types.isMap, types.isSet, types.isDate, types.isRegExp, types.isBoxedPrimitive]

function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null && !NOT_OPTIONS.some(is => is(value))
}

/** Whether all of its properties are its own: it is no instance of a class. In another realm, such as Jest's, Object is another one. */
function isPlainObject (value: unknown): value is object {
  if (!isObject(value)) return false
  const prototype = Object.getPrototypeOf(value) as object | null
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
