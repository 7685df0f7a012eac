// The defaults, in one place, and the validation of options.

import type { GracefulOptions, ProbeOptions, ProcessEvent, GracefulRouteOptions, CallbackOptions } from '../types/index.ts'
import { isMainThread } from 'node:worker_threads'
import { BudgetError, CrashSignalError, OptionInvalidError, OptionUnknownError, ProbePathError, WorkerThreadError } from './errors.ts'
import { CHECK_TIMEOUT, LONGEST_TIMER } from './times.ts'
import { show } from './values.ts'

/** The events that `signals: true` stands for. */
export const DEFAULT_EVENTS: readonly ProcessEvent[] = [
  'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'uncaughtException', 'unhandledRejection'
]

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
  readTimeout: 10_000,
  writeTimeout: 10_000,
  idleTimeout: 120_000,
  signals: true,
  health: '/health',
  ready: '/ready'
} as const

export type Timeout = number | false

export interface Probe extends Readonly<Required<Omit<ProbeOptions, 'logLevel'>>> {
  readonly logLevel: string | undefined
}

/** Options after validation: complete and frozen. */
export interface Options extends Readonly<Required<Omit<GracefulOptions, 'signals' | 'health' | 'ready'>>> {
  readonly signals: readonly ProcessEvent[]
  readonly health: Probe | false
  readonly ready: Probe | false
  /** The names of all options that the user gave; other timeouts yield to Fastify's. */
  readonly given: ReadonlySet<string>
}

/** Validates the user's options without changing them. */
export function resolveOptions (input: GracefulOptions): Options {
  known('option', input, Object.keys(DEFAULTS))
  const given = Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined))
  const options = { ...DEFAULTS, ...given } as Required<GracefulOptions>
  const resolved: Options = {
    shutdownTimeout: milliseconds('option "shutdownTimeout"', options.shutdownTimeout, 1),
    drainTimeout: milliseconds('option "drainTimeout"', options.drainTimeout, 0),
    shutdownDelay: milliseconds('option "shutdownDelay"', options.shutdownDelay, 0),
    readTimeout: timeout('option "readTimeout"', options.readTimeout),
    writeTimeout: timeout('option "writeTimeout"', options.writeTimeout),
    idleTimeout: timeout('option "idleTimeout"', options.idleTimeout),
    signals: processEvents(options.signals),
    health: probe('health', options.health),
    ready: probe('ready', options.ready),
    given: new Set(Object.keys(given))
  }
  const { shutdownDelay, drainTimeout, shutdownTimeout, health, ready } = resolved
  if (shutdownDelay + drainTimeout >= shutdownTimeout) throw new BudgetError(shutdownDelay, drainTimeout, shutdownTimeout)
  if (health !== false && ready !== false && health.path === ready.path) {
    throw new ProbePathError('ready', ready.path, 'option "health"', 'ready')
  }
  return Object.freeze(resolved)
}

/** Validates a route's `config.gracefulShutdown`. */
export function resolveRouteOptions (url: string, config: GracefulRouteOptions = {}): GracefulRouteOptions {
  if (config === false) return config
  const name = `config.gracefulShutdown of route "${url}"`
  assertValid(isPlainObject(config), name, config, 'false or an object')
  known(`option of ${name}:`, config, ['writeTimeout'])
  if (config.writeTimeout !== undefined) timeout(`"writeTimeout" in ${name}`, config.writeTimeout)
  return config
}

/** Validates the options of a shutdown callback. */
export function resolveCallbackOptions (options: CallbackOptions, shutdownTimeout: number): CallbackOptions {
  assertValid(isPlainObject(options), 'options of a shutdown callback', options, 'an object')
  known('option of a shutdown callback', options, ['name', 'timeout'])
  const { name } = options
  const isName = name === undefined || (typeof name === 'string' && name !== '')
  assertValid(isName, 'option "name" of a shutdown callback', name, 'a string that is not empty')
  if (options.timeout !== undefined) milliseconds('option "timeout" of a shutdown callback', options.timeout, 1, shutdownTimeout)
  return options
}

function assertValid (isValid: boolean, name: string, value: unknown, allowed: string): asserts isValid {
  if (!isValid) throw new OptionInvalidError(name, show(value), allowed)
}

function milliseconds (name: string, value: unknown, least: number, most = LONGEST_TIMER, others = ''): number {
  const isValid = typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
  assertValid(isValid, name, value, `a whole number of milliseconds from ${least} to ${most}${others}`)
  return value
}

function timeout (name: string, value: unknown): Timeout {
  return value !== false && milliseconds(name, value, 1, LONGEST_TIMER, ', or false')
}

function processEvents (value: unknown): readonly ProcessEvent[] {
  if (value === true) return DEFAULT_EVENTS
  if (value === false) return []
  const allowed = `true, false or a list out of ${PROCESS_EVENTS.join(', ')}`
  assertValid(Array.isArray(value) && value.length > 0, 'option "signals"', value, allowed)
  const crash = CRASH_SIGNALS.find(signal => value.includes(signal))
  if (crash !== undefined) throw new CrashSignalError(crash)
  assertValid(value.every(event => PROCESS_EVENTS.includes(event as ProcessEvent)), 'option "signals"', value, allowed)
  const events = [...new Set<ProcessEvent>(value)]
  const signal = events.find(event => event.startsWith('SIG'))
  if (signal !== undefined && !isMainThread) throw new WorkerThreadError(signal)
  return events
}

function probe (name: 'health' | 'ready', value: unknown): Probe | false {
  if (value === false) return false
  const options: unknown = typeof value === 'string' ? { path: value } : value
  assertValid(isPlainObject(options), `option "${name}"`, value, 'a path, an object or false')
  known(`option of "${name}":`, options, ['path', 'checks', 'checkTimeout', 'logLevel'])
  const { path = DEFAULTS[name], checks = {}, checkTimeout = CHECK_TIMEOUT, logLevel } = options as ProbeOptions
  const isPath = typeof path === 'string' && /^\/[^\s?#:*]*$/.test(path)
  const option = typeof value === 'string' ? `option "${name}"` : `option "path" of "${name}"`
  assertValid(isPath, option, path, 'a path with a leading slash, without parameters')
  const areChecks = isPlainObject(checks) && Object.values(checks).every(check => typeof check === 'function')
  assertValid(areChecks, `option "checks" of "${name}"`, checks, 'an object of named functions')
  assertValid(['string', 'undefined'].includes(typeof logLevel), `option "logLevel" of "${name}"`, logLevel, "one of the logger's levels")
  milliseconds(`option "checkTimeout" of "${name}"`, checkTimeout, 1)
  return Object.freeze({ path, checks: Object.freeze({ ...checks }), checkTimeout, logLevel })
}

function known (what: string, options: object, names: string[]): void {
  const unknown = Object.keys(options).find(name => !names.includes(name))
  if (unknown !== undefined) throw new OptionUnknownError(`${what} "${unknown}"`, names.join(', '))
}

function isPlainObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
