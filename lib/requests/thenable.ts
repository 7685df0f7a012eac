// User thenables. Each call of `then` on a lazy one, such as a query builder, repeats its work. So the plugin adds a call only to a plain
// promise; of other thenables, it observes the calls that other code makes.

/* oxlint-disable unicorn/no-thenable */

import { types } from 'node:util'
import { replaceMethod } from '../before-call.ts'

type Callback = (value: unknown) => unknown
type Settled = (outcome: unknown) => void

/** Whether a value has a `then` method. It reads `then`, as `await` does; if that throws, it has none. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  try {
    return value != null && typeof (value as PromiseLike<unknown>).then === 'function'
  } catch {
    return false
  }
}

/** The `then` of the promises that async functions return. Not of the global `Promise`, which zone.js and others replace. */
const { then: nativeThen } = Object.getPrototypeOf((async () => {})()) as Promise<unknown> // oxlint-disable-line unbound-method

/**
 * Whether it is a promise with the `then` of the global `Promise`, or a native promise, not of a subclass, of any realm (node:vm, Jest).
 * It already runs, and may be observed without repeating its work.
 */
export function isPlainPromise (value: PromiseLike<unknown>): value is Promise<unknown> {
  if (value instanceof Promise && value.then === Promise.prototype.then) return true
  return types.isPromise(value) && isPromisePrototype(Object.getPrototypeOf(value) as object)
}

/** The prototype of a subclass has another one between it and Object's. */
function isPromisePrototype (prototype: object): boolean {
  return Object.getPrototypeOf(Object.getPrototypeOf(prototype)) === null
}

/** Observes how a thenable settles. Returns whether it can be observed. */
export function observeThenable (thenable: PromiseLike<unknown>, fulfilled: Settled, rejected: Settled): boolean {
  try {
    if (isPlainPromise(thenable)) observePromise(thenable, fulfilled, rejected)
    else observeNextThen(thenable, fulfilled, rejected)
    return true
  } catch {
    // It is frozen, or a proxy.
    return false
  }
}

/** Observes a plain promise. Of a native one, it calls the native `then`, even if the promise has its own. */
function observePromise (promise: Promise<unknown>, fulfilled: Settled, rejected: Settled): void {
  if (promise.then === nativeThen || !types.isPromise(promise)) void promise.then(fulfilled, rejected)
  else void nativeThen.call(promise, fulfilled, rejected)
}

/**
 * A plain promise, for the code that awaits it: observes the first call of `then`. To observe the promise itself would cost each request
 * another promise and another job. Not an own `then` of the promise, which `await` ignores.
 */
export class ObservedPromise {
  readonly #promise: Promise<unknown>
  readonly #observer: { settled: () => void }
  #isObserved = false

  constructor (promise: Promise<unknown>, observer: { settled: () => void }) {
    this.#promise = promise
    this.#observer = observer
  }

  then (onFulfilled?: Callback | null, onRejected?: Callback | null): Promise<unknown> {
    if (this.#isObserved) return this.#promise.then(onFulfilled, onRejected)
    this.#isObserved = true
    return this.#promise.then(value => {
      this.#observer.settled()
      return onFulfilled == null ? value : onFulfilled(value)
    }, (reason: unknown) => {
      this.#observer.settled()
      if (onRejected == null) throw reason
      return onRejected(reason)
    })
  }

  /** Unless other code has called `then`, which it may never do. That code, not this call, handles a rejection. */
  observe (): void {
    if (!this.#isObserved) void this.then(undefined, () => {})
  }
}
// For `catch()` and `finally()`, which call `then`, and for `instanceof`.
Object.setPrototypeOf(ObservedPromise.prototype, Promise.prototype)

/**
 * Observes the next call of a thenable's `then`, whichever code makes it. The thenable itself stays what it is: other code may
 * call its other methods.
 * @throws if its `then` cannot be replaced: it is frozen, or a proxy that does not show what is set on it
 */
function observeNextThen (thenable: PromiseLike<unknown>, fulfilled: Settled, rejected: Settled): void {
  const value = (...callbacks: [Callback?, Callback?]) => {
    restore()
    return thenFor(thenable, callbacks, fulfilled, rejected)
  }
  const restore = replaceMethod(thenable, 'then', value)
  if (thenable.then === value) return
  restore()
  throw new TypeError('then cannot be observed')
}

/**
 * Calls `then` for other code and reports how it settles, also if `then` throws. Only once, although a faulty thenable may call back
 * repeatedly: other code gets each call.
 */
function thenFor (thenable: PromiseLike<unknown>, [onFulfilled, onRejected]: [Callback?, Callback?],
  fulfilled: Settled, rejected: Settled): PromiseLike<unknown> {
  let isReported = false
  const report = (settled: Settled, outcome: unknown) => {
    if (!isReported) settled(outcome)
    isReported = true
  }
  try {
    return thenable.then(value => {
      report(fulfilled, value)
      return onFulfilled == null ? value : onFulfilled(value)
    }, reason => {
      report(rejected, reason)
      if (onRejected == null) throw reason
      return onRejected(reason)
    })
  } catch (error) {
    report(rejected, error)
    throw error
  }
}
