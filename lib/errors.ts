// The coded errors.

import type { FastifyError } from '@fastify/error'
import { STATUS_CODES } from 'node:http'
import createError from '@fastify/error'

/** An option of the plugin, of a route or of a callback has an invalid value. */
export const OptionInvalidError = createError<[option: string, value: string, allowed: string]>(
  'FST_ERR_GRACEFUL_OPTION_INVALID', 'Invalid %s: got %s, allowed is %s')

/** An option is unknown, usually because of a typo. */
export const OptionUnknownError = createError<[option: string, known: string, advice: string]>(
  'FST_ERR_GRACEFUL_OPTION_UNKNOWN', 'Unknown %s, known are %s%s')

/** Listening to a crash keeps the process from crashing. */
export const CrashSignalError = createError<[signal: string]>(
  'FST_ERR_GRACEFUL_CRASH_SIGNAL',
  'Option "signals" must not name %s, the signal of a crash: a process that listens to it may freeze instead of crashing, and an ' +
  'out-of-bounds access of WebAssembly ends it instead of throwing')

/** A worker thread receives no signals. */
export const WorkerThreadError = createError<[signal: string]>(
  'FST_ERR_GRACEFUL_WORKER_THREAD',
  'Option "signals" names %s, but a worker thread receives no signals: leave the option out, and let the main thread tell the ' +
  'worker when to call fastify.close()')

/** Bun and Deno. */
export const RuntimeUnsupportedError = createError<[runtime: string]>(
  'FST_ERR_GRACEFUL_RUNTIME_UNSUPPORTED', 'fastify-graceful needs Node.js; %s is not supported')

/** The time limits do not fit into each other. */
export const BudgetError = createError<[delay: number, drain: number, most: number, shutdown: number]>(
  'FST_ERR_GRACEFUL_BUDGET',
  'shutdownDelay (%d ms) + drainTimeout (%d ms) must be at most %d ms, because shutdownTimeout (%d ms) includes the time to close, ' +
  'clean up and exit')

/** A probe has the path of a route or of the other probe. */
export const ProbePathError = createError<[option: string, path: string, other: string, option: string]>(
  'FST_ERR_GRACEFUL_PROBE_PATH',
  'The path of option "%s", "%s", is also the path of %s. Set option "%s" of fastify-graceful to another path, or to false for no probe')

/** A server shuts down once, with one set of options. */
export const AlreadyRegisteredError = createError(
  'FST_ERR_GRACEFUL_ALREADY_REGISTERED', 'fastify-graceful is already registered in this instance')

/** Another plugin for shutdown, or the application, uses the name of one of the plugin's decorators. */
export const DecoratorTakenError = createError<[name: string, all: string]>(
  'FST_ERR_GRACEFUL_DECORATOR_TAKEN',
  'The instance already has a decorator "%s", of the application, of another plugin, or of a second copy of fastify-graceful. Rename ' +
  'or remove it: fastify-graceful adds %s')

/** A plugin in a child context sees no requests of the root context or of its siblings, so it cannot protect them. */
export const NotRootError = createError(
  'FST_ERR_GRACEFUL_NOT_ROOT',
  'fastify-graceful must be registered in the root instance, because a shutdown concerns every route. Call ' +
  'app.register(gracefulPlugin) there, or wrap each plugin that it is registered from in fastify-plugin: ' +
  'one that @fastify/autoload loads, and with fastify-cli also the application itself')

/** As above, for the metrics. */
export const MetricsNotRootError = createError(
  'FST_ERR_GRACEFUL_METRICS_NOT_ROOT',
  'fastify-graceful/prometheus must be registered in the root instance, because it counts the requests of every route. Wrap each plugin ' +
  'that it is registered from in fastify-plugin')

/** Two instances share a server through `serverFactory`: each would close the other's connections. */
export const ServerSharedError = createError(
  'FST_ERR_GRACEFUL_SERVER_SHARED', 'The server of this instance belongs to another instance that has fastify-graceful registered')

export const CallbackInvalidError = createError<[value: string]>(
  'FST_ERR_GRACEFUL_CALLBACK_INVALID', 'A shutdown callback must be a function, got %s')

export const CallbackTooLateError = createError<[name: string]>(
  'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE', 'The shutdown callback "%s" is registered too late: callbacks are running already')

export const CallbackTimeoutError = createError<[name: string, limit: number]>(
  'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT', 'The shutdown callback "%s" did not finish within %d ms')

export const CheckFailedError = createError<[name: string]>(
  'FST_ERR_GRACEFUL_CHECK_FAILED', 'The check "%s" returned false')

export const CheckTimeoutError = createError<[name: string, limit: number]>(
  'FST_ERR_GRACEFUL_CHECK_TIMEOUT', 'The check "%s" did not finish within %d ms')

export const CloseTimeoutError = createError<[limit: number, what: string]>(
  'FST_ERR_GRACEFUL_CLOSE_TIMEOUT', 'Closing did not end within %d ms: it still waits for %s')

export const TrackInvalidError = createError<[value: string]>(
  'FST_ERR_GRACEFUL_TRACK_INVALID',
  'track() takes a function, a promise, or a thenable that it can observe; for any other thenable, pass Promise.resolve(thenable). Got %s')

/** A test waits for a phase that does not come any more. */
export const PhaseSkippedError = createError<[phase: string, current: string]>(
  'FST_ERR_GRACEFUL_PHASE_SKIPPED', 'The shutdown was not in the phase "%s", and is already in the phase "%s"')

/** The answer to a request that arrives after the gate has shut. */
export const ShuttingDownError = createError(
  'FST_ERR_GRACEFUL_SHUTTING_DOWN', 'The service is shutting down', 503)

/** The answer when a response made no progress for `writeTimeout`. */
export const WriteTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_WRITE_TIMEOUT', 'The response made no progress for %d ms', 503)

/** The answer to a request if its body did not arrive within `readTimeout`; if its headers did not, Node answers. */
export const ReadTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_READ_TIMEOUT', 'The request was not received within %d ms', 408)

/** The answer to a request that is still in flight at the drain timeout. */
export const DrainTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_DRAIN_TIMEOUT', 'The request was still in flight at the end of drainTimeout (%d ms)', 503)

/** Only in the log: the connection is closed, so the client cannot be answered. */
export const ConnectionTimeoutError = createError(
  'FST_ERR_GRACEFUL_CONNECTION_TIMEOUT', 'A timeout that the application has set closed the connection', 503)

/** Only in the log: the connection is closed, so the client cannot be answered. */
export const ConnectionClosedError = createError(
  'FST_ERR_GRACEFUL_CONNECTION_CLOSED', 'Other code in this process has closed the connection', 503)

/** Only in the log and the report: the process exits, so no client can be answered. */
export const ExitError = createError(
  'FST_ERR_GRACEFUL_EXIT', 'The process exited before the shutdown was complete', 503)

/** An error in the format that Fastify sends. */
export function errorBody ({ statusCode = 500, code, message }: FastifyError): string {
  return JSON.stringify({ statusCode, code, error: STATUS_CODES[statusCode], message })
}
