// Values that come from a user's code. Anything may be thrown, rejected or passed, and nothing here throws.

import { inspect, types } from 'node:util'

/** Of a value that is shown. */
const MOST_CHARACTERS = 500

/** A value as its author wrote it, with its type where that may be the mistake. */
export function show (value: unknown): string {
  try {
    const text = inspect(value, { depth: 1, breakLength: Infinity, maxStringLength: 80 })
    if (text.length > MOST_CHARACTERS) return `${text.slice(0, MOST_CHARACTERS)}…`
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
    const { message }: { message: unknown } = error
    return typeof message === 'string' ? message : show(message)
  } catch {
    return show(error)
  }
}

/** A name that a user gave: text as it is, anything else as it shows. */
export function nameOf (value: unknown): string {
  return typeof value === 'string' ? value : show(value)
}
