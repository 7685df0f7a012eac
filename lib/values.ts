// Values from user code. Anything may be thrown, rejected or passed.

import { inspect, types } from 'node:util'

/** The maximum length of a shown value, by default. */
const MOST_CHARACTERS = 500

/** A value as written in code, with its type if that may be the mistake; an error with its stack. */
export function show (value: unknown, most = MOST_CHARACTERS): string {
  try {
    const text = inspect(value, { depth: 1, breakLength: Infinity, maxStringLength: 80 })
    if (text.length > most) return `${text.slice(0, most)}…`
    return typeof value === 'object' || typeof value === 'function' ? text : `${text} (${typeof value})`
  } catch {
    // A getter or a custom inspect function threw.
    return `a value of type ${typeof value} that cannot be shown`
  }
}

/** Errors of another realm (node:vm, Jest) are also errors. A proxy may throw when it is inspected. */
export function isError (value: unknown): value is Error {
  return attempt(() => types.isNativeError(value) || value instanceof Error) === true
}

/** Whatever was thrown, as an error. */
export function toError (thrown: unknown): Error {
  if (isError(thrown)) return thrown
  return new Error(`Not an error: ${show(thrown)}`, { cause: thrown })
}

/** What an error says; its properties may be of any type. A failed connect to several addresses has a code, but no message. */
export function messageOf (error: Error): string {
  return attempt(() => nameOf(error.message) || nameOf((error as NodeJS.ErrnoException).code ?? error.name)) ?? show(error)
}

/** What user code returns, or is read of a user's object; undefined if that throws. */
export function attempt<T> (call: () => T): T | undefined {
  try {
    return call()
  } catch {
    return undefined
  }
}

/** Calls `act` for each item. An error for one of them is ignored: other code may have changed an object of Node so that it throws. */
export function attemptEach<T> (items: Iterable<T>, act: (item: T) => void): void {
  for (const item of items) attempt(() => { act(item) })
}

/** A user-given name: a string as it is, any other value as shown. */
export function nameOf (value: unknown): string {
  return typeof value === 'string' ? value : show(value)
}

export type AnyFunction = (this: any, ...args: any[]) => unknown // oxlint-disable-line no-explicit-any

/** What `map` returns for a function. Any other value stays as it is: Fastify then throws its own error. */
export function mapFunction (value: unknown, map: (given: AnyFunction) => AnyFunction): unknown {
  return typeof value === 'function' ? map(value as AnyFunction) : value
}
