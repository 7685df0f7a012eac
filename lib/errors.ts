// The coded errors, nothing else.

import type { FastifyError } from '@fastify/error'
import { STATUS_CODES } from 'node:http'
import createError from '@fastify/error'

/** An option, of the plugin, of a route or of a callback, is not what it may be. */
export const OptionInvalidError = createError<[option: string, value: string, allowed: string]>(
  'FST_ERR_GRACEFUL_OPTION_INVALID', 'Invalid %s: got %s, allowed is %s')

/** An option that does not exist, mostly a typo. */
export const OptionUnknownError = createError<[option: string, known: string]>(
  'FST_ERR_GRACEFUL_OPTION_UNKNOWN', 'Unknown %s, known are %s')

/** The times do not fit into each other. */
export const BudgetError = createError<[delay: number, drain: number, shutdown: number]>(
  'FST_ERR_GRACEFUL_BUDGET',
  'shutdownDelay (%d ms) + drainTimeout (%d ms) must be less than shutdownTimeout (%d ms), or no time is left to close and clean up')

/** A probe's path is taken by the other probe or by a route. */
export const ProbePathError = createError<[option: string, path: string, owner: string]>(
  'FST_ERR_GRACEFUL_PROBE_PATH', 'The path of option "%s", "%s", is taken by %s')

/** One server shuts down once, with one set of options. */
export const AlreadyRegisteredError = createError(
  'FST_ERR_GRACEFUL_ALREADY_REGISTERED', 'fastify-graceful is already registered in this instance')

/** Two instances by way of a `serverFactory`: each would close the other's connections. */
export const ServerSharedError = createError(
  'FST_ERR_GRACEFUL_SERVER_SHARED', 'The server of this instance is that of another one already, which has fastify-graceful registered')

export const CallbackInvalidError = createError<[value: string]>(
  'FST_ERR_GRACEFUL_CALLBACK_INVALID', 'A shutdown callback must be a function, got %s')

export const CallbackTooLateError = createError<[name: string]>(
  'FST_ERR_GRACEFUL_CALLBACK_TOO_LATE', 'The shutdown callback "%s" comes too late: the callbacks already run')

export const CallbackTimeoutError = createError<[name: string, limit: number]>(
  'FST_ERR_GRACEFUL_CALLBACK_TIMEOUT', 'The shutdown callback "%s" was not done within %d ms')

export const CloseTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_CLOSE_TIMEOUT', 'Fastify was not closed within %d ms: an onClose or preClose hook hangs')

export const TrackInvalidError = createError<[value: string]>(
  'FST_ERR_GRACEFUL_TRACK_INVALID', 'track() takes a promise, got %s')

/** What a client reads whose request came too late. */
export const ShuttingDownError = createError(
  'FST_ERR_GRACEFUL_SHUTTING_DOWN', 'The service is shutting down', 503)

/** What a client reads whose response made no progress for `writeTimeout`. */
export const WriteTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_WRITE_TIMEOUT', 'The response made no progress for %d ms', 503)

/** What an HTTP/2 client reads that did not send its request within `readTimeout`; on HTTP/1, Node answers. */
export const ReadTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_READ_TIMEOUT', 'The request was not received within %d ms', 408)

/** What a client reads whose request was still in flight when the drain timeout came. */
export const DrainTimeoutError = createError<[limit: number]>(
  'FST_ERR_GRACEFUL_DRAIN_TIMEOUT', 'The request was not answered within the %d ms that a shutdown waits', 503)

/** In the log only: nobody can be answered any more. */
export const ExitError = createError(
  'FST_ERR_GRACEFUL_EXIT', 'The process exited before the request was answered', 503)

/** An error in the shape in which Fastify sends it. */
export function errorBody ({ statusCode = 500, code, message }: FastifyError): string {
  return JSON.stringify({ statusCode, code, error: STATUS_CODES[statusCode], message })
}

/** Anything may be thrown. */
export function toError (thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown), { cause: thrown })
}
