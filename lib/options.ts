// The defaults, in one place, and the validation of options.

import type { GracefulOptions, ProbeCheck, ProbeOptions, ProcessEvent, GracefulRouteOptions, CallbackOptions } from '../types/index.ts'
import { BudgetError, OptionInvalidError, OptionUnknownError, ProbePathError } from './errors.ts'
import { CHECK_TIMEOUT, LONGEST_TIMER } from './times.ts'
import { show } from './values.ts'

/** All events that close-with-grace listens to. It does not export its lists; a test compares them. */
export const PROCESS_EVENTS: readonly ProcessEvent[] = [
  'SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGILL', 'SIGTRAP', 'SIGABRT',
  'SIGBUS', 'SIGFPE', 'SIGSEGV', 'SIGUSR2', 'SIGTERM',
  'uncaughtException', 'unhandledRejection', 'beforeExit'
]

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

export interface Probe {
  readonly path: string
  readonly checks: Readonly<Record<string, ProbeCheck>>
  readonly checkTimeout: number
  readonly logLevel: string | undefined
}

/** Options after validation: complete and frozen. */
export interface Options {
  readonly shutdownTimeout: number
  readonly drainTimeout: number
  readonly shutdownDelay: number
  readonly readTimeout: Timeout
  readonly writeTimeout: Timeout
  readonly idleTimeout: Timeout
  readonly signals: readonly ProcessEvent[]
  readonly health: Probe | false
  readonly ready: Probe | false
  /** The names of all options that the user gave; other timeouts yield to Fastify's. */
  readonly given: ReadonlySet<string>
}

/** Validates the user's options without changing them. */
export function resolveOptions (input: GracefulOptions): Options {
  known('option', input, Object.keys(DEFAULTS))
  const given = new Set(Object.entries(input).filter(([, value]) => value !== undefined).map(([name]) => name))
  const options = { ...DEFAULTS, ...Object.fromEntries(Object.entries(input).filter(([name]) => given.has(name))) } as
    Required<GracefulOptions>

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
    given
  }
  const { shutdownDelay, drainTimeout, shutdownTimeout, health, ready } = resolved
  if (shutdownDelay + drainTimeout >= shutdownTimeout) throw new BudgetError(shutdownDelay, drainTimeout, shutdownTimeout)
  if (health !== false && ready !== false && health.path === ready.path) {
    throw new ProbePathError('ready', ready.path, 'option "health"', 'ready')
  }
  return Object.freeze(resolved)
}

/** Validates a route's `config.gracefulShutdown`. */
export function resolveRouteOptions (url: string, config: GracefulRouteOptions | undefined): GracefulRouteOptions {
  const name = `config.gracefulShutdown of route "${url}"`
  if (config === undefined) return {}
  if (config === false) return config
  if (!isPlainObject(config)) throw new OptionInvalidError(name, show(config), 'false or an object')
  known(`option of ${name}:`, config, ['writeTimeout'])
  if (config.writeTimeout !== undefined) timeout(`"writeTimeout" in ${name}`, config.writeTimeout)
  return config
}

/** Validates the options of a shutdown callback. */
export function resolveCallbackOptions (options: CallbackOptions, shutdownTimeout: number): CallbackOptions {
  if (!isPlainObject(options)) throw new OptionInvalidError('options of a shutdown callback', show(options), 'an object')
  known('option of a shutdown callback', options, ['name', 'timeout'])
  if (options.name !== undefined && (typeof options.name !== 'string' || options.name === '')) {
    throw new OptionInvalidError('option "name" of a shutdown callback', show(options.name), 'a string that is not empty')
  }
  if (options.timeout !== undefined) {
    milliseconds('option "timeout" of a shutdown callback', options.timeout, 1, shutdownTimeout)
  }
  return options
}

function milliseconds (name: string, value: unknown, least: number, most = LONGEST_TIMER): number {
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) {
    throw new OptionInvalidError(name, show(value), `a whole number of milliseconds from ${least} to ${most}`)
  }
  return value as number
}

function timeout (name: string, value: unknown): Timeout {
  if (value === false) return false
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > LONGEST_TIMER) {
    throw new OptionInvalidError(name, show(value), `a whole number of milliseconds from 1 to ${LONGEST_TIMER}, or false`)
  }
  return value as number
}

function processEvents (value: unknown): readonly ProcessEvent[] {
  if (value === true) return PROCESS_EVENTS
  if (value === false) return []
  const isEvent = (event: unknown) => (PROCESS_EVENTS as readonly unknown[]).includes(event)
  if (!Array.isArray(value) || value.length === 0 || !value.every(isEvent)) {
    throw new OptionInvalidError('option "signals"', show(value), `true, false or a list out of ${PROCESS_EVENTS.join(', ')}`)
  }
  return [...new Set<ProcessEvent>(value)]
}

function probe (name: 'health' | 'ready', value: unknown): Probe | false {
  if (value === false) return false
  if (typeof value !== 'string' && !isPlainObject(value)) {
    throw new OptionInvalidError(`option "${name}"`, show(value), 'a path, an object or false')
  }
  const options: ProbeOptions = typeof value === 'string' ? { path: value } : value
  known(`option of "${name}":`, options, ['path', 'checks', 'checkTimeout', 'logLevel'])
  const { path = DEFAULTS[name], checks = {}, checkTimeout = CHECK_TIMEOUT, logLevel } = options
  if (typeof path !== 'string' || !/^\/[^\s?#:*]*$/.test(path)) {
    const option = typeof value === 'string' ? `option "${name}"` : `option "path" of "${name}"`
    throw new OptionInvalidError(option, show(path), 'a path with a leading slash, without parameters')
  }
  if (!isPlainObject(checks) || !Object.values(checks).every(check => typeof check === 'function')) {
    throw new OptionInvalidError(`option "checks" of "${name}"`, show(checks), 'an object of named functions')
  }
  if (logLevel !== undefined && typeof logLevel !== 'string') {
    throw new OptionInvalidError(`option "logLevel" of "${name}"`, show(logLevel), "one of the logger's levels")
  }
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
