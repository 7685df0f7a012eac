// Values that come from a user's code. Anything may be thrown, rejected or passed, and nothing here throws.

import { inspect, types } from 'node:util'

/** A value as its author wrote it, with its type where that may be the mistake. */
export function show (value: unknown): string {
  try {
    const text = inspect(value, { depth: 1, breakLength: Infinity, maxStringLength: 80 })
    return typeof value === 'object' || typeof value === 'function' ? text : `${text} (${typeof value})`
  } catch {
    // A getter or a custom inspect function threw.
    return `a value of type ${typeof value} that cannot be shown`
  }
}

/** An error, whatever was thrown. Errors of another realm (node:vm, Jest) are errors, too. */
export function toError (thrown: unknown): Error {
  try {
    if (types.isNativeError(thrown) || thrown instanceof Error) return thrown
  } catch {
    // A proxy that does not let itself be looked at.
  }
  return new Error(`Not an error: ${show(thrown)}`, { cause: thrown })
}

/** The message of an error, whose properties may be anything. */
export function messageOf (error: Error): string {
  try {
    return String(error.message)
  } catch {
    return show(error)
  }
}

/** A name that a user gave: text as it is, anything else as it shows. */
export function nameOf (value: unknown): string {
  return typeof value === 'string' ? value : show(value)
}

/** Whether a value has a `then` method. It reads `then`, as `await` does. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return value != null && typeof (value as PromiseLike<unknown>).then === 'function'
}

/** Whether `then` may be called once more without doing anything again. Not so for a query builder, or a lazy promise. */
export function isPlainPromise (value: PromiseLike<unknown>): value is Promise<unknown> {
  return types.isPromise(value) && value.then === Promise.prototype.then // oxlint-disable-line unbound-method
}
