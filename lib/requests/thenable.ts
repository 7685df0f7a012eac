// User thenables. Each call of `then` on a lazy one, such as a query builder, repeats its work. So the plugin observes the calls that
// other code makes. It calls `then` itself only on plain promises: those of background work and late hooks, and that of a handler if no
// other code does.

/* oxlint-disable unicorn/no-thenable */

import { types } from 'node:util'
import { replaceMethod } from '../before-call.ts'
import { attempt } from '../values.ts'

type Callback = (value: unknown) => unknown

/** What is told, once, how a thenable settles. */
export interface Observer {
  fulfilled: () => void
  rejected: (reason: unknown) => void
}

/** Whether a value has a `then` method. It reads `then`, as `await` does; if that throws, it has none. For each request: no `attempt()`. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  try {
    return value != null && typeof (value as PromiseLike<unknown>).then === 'function'
  } catch {
    return false
  }
}

/** The `then` of the promises that async functions return. Not of the global `Promise`, which zone.js and others replace. */
const { then: nativeThen } = Object.getPrototypeOf((async () => {})()) as Promise<unknown> // oxlint-disable-line unbound-method

/** Whether its `then` is that of the promises that async functions return. For each request: no `attempt()`. */
export function hasNativeThen (value: PromiseLike<unknown>): value is Promise<unknown> {
  try {
    return value.then === nativeThen
  } catch {
    return false
  }
}

/**
 * Whether it is a promise with the `then` of the global `Promise`, or a native promise, not of a subclass, of any realm (node:vm, Jest).
 * It already runs, and may be observed without repeating its work.
 */
function isPlainPromise (value: PromiseLike<unknown>): value is Promise<unknown> {
  if (value instanceof Promise && value.then === Promise.prototype.then) return true
  return types.isPromise(value) && isPromisePrototype(Object.getPrototypeOf(value) as object)
}

/** The prototype of a subclass has another one between it and Object's. */
function isPromisePrototype (prototype: object): boolean {
  return Object.getPrototypeOf(Object.getPrototypeOf(prototype)) === null
}

/** Observes how a thenable settles. Returns whether it can be observed. */
export function observeThenable (thenable: PromiseLike<unknown>, observer: Observer): boolean {
  try {
    if (isPlainPromise(thenable)) observePromise(thenable, observer)
    else observeNextThen(thenable, observer)
    return true
  } catch {
    // It is frozen, or a proxy.
    return false
  }
}

/** Observes a plain promise. Of a native one, it calls the native `then`, even if the promise has its own. */
function observePromise (promise: PromiseLike<unknown>, observer: Observer): void {
  const then = types.isPromise(promise) ? nativeThen : promise.then // oxlint-disable-line unbound-method
  void then.call(promise, () => { observer.fulfilled() }, (reason: unknown) => { observer.rejected(reason) })
}

/**
 * Stands in for a promise with the native `then`, for the code that calls `then`: to observe the promise itself would cost each request
 * another promise and another job. Setting an own `then` on the promise would not do: `await` ignores it.
 */
export class ObservedPromise {
  readonly #promise: Promise<unknown>
  #observer: Observer | undefined

  constructor (promise: Promise<unknown>, observer: Observer) {
    this.#promise = promise
    this.#observer = observer
  }

  then (onFulfilled?: Callback | null, onRejected?: Callback | null): PromiseLike<unknown> {
    const observer = this.#observer
    if (observer === undefined) return this.#promise.then(onFulfilled, onRejected)
    this.#observer = undefined
    // It throws if the promise is a proxy, or of a subclass with a constructor that fails.
    return thenFor(this.#promise, nativeThen, onFulfilled, onRejected, observer)
  }

  async catch (onRejected?: Callback | null): Promise<unknown> {
    return await Promise.resolve(this).catch(onRejected)
  }

  async finally (onSettled?: (() => void) | null): Promise<unknown> {
    return await Promise.resolve(this).finally(onSettled)
  }

  /** Other code may never call `then`. If it does not, a later rejection is not reported as unhandled. */
  observeIfDropped (): void {
    // If that throws, the observer has been told.
    if (this.#observer !== undefined) void attempt(() => this.then(undefined, () => {}))
  }
}

interface Replaced {
  /** What the next calls of `then` report to: several requests may share a thenable. */
  observers: Set<Observer>
  restore: () => void
}

/** The thenables with a replaced `then`. */
const replaced = new WeakMap<PromiseLike<unknown>, Replaced>()

/**
 * Observes the next call of a thenable's `then`, whichever code makes it. The thenable itself stays what it is: other code may
 * call its other methods.
 * @throws if its `then` cannot be replaced: it is frozen, or a proxy that does not show what is set on it
 */
function observeNextThen (thenable: PromiseLike<unknown>, observer: Observer): void {
  const known = replaced.get(thenable)
  if (known !== undefined) {
    known.observers.add(observer)
    return
  }
  const { then } = thenable
  const observers = new Set([observer])
  const value = (onFulfilled?: Callback | null, onRejected?: Callback | null) => {
    const [next] = observers
    if (next === undefined) return then.call(thenable, onFulfilled, onRejected)
    observers.delete(next)
    if (observers.size === 0) restore()
    return thenFor(thenable, then, onFulfilled, onRejected, next)
  }
  const restoreThen = replaceMethod(thenable, 'then', value)
  const restore = () => {
    replaced.delete(thenable)
    restoreThen()
  }
  if (thenable.then !== value) {
    restore()
    throw new TypeError('then cannot be observed')
  }
  replaced.set(thenable, { observers, restore })
}

/** Whether no code has called `then` since `observeThenable()`. If so, it is no longer observed. */
export function stopObserving (thenable: PromiseLike<unknown>, observer: Observer): boolean {
  const known = replaced.get(thenable)
  if (known?.observers.delete(observer) !== true) return false
  if (known.observers.size === 0) known.restore()
  return true
}

/**
 * Calls `then` for other code and reports how the thenable settles, also if `then` throws. Only once, although a faulty thenable may call
 * back repeatedly: other code gets each call.
 */
function thenFor (thenable: PromiseLike<unknown>, then: PromiseLike<unknown>['then'], onFulfilled: Callback | null | undefined,
  onRejected: Callback | null | undefined, observer: Observer): PromiseLike<unknown> {
  let observing: Observer | undefined = observer
  try {
    return then.call(thenable, value => {
      observing?.fulfilled()
      observing = undefined
      return onFulfilled == null ? value : onFulfilled(value)
    }, (reason: unknown) => {
      observing?.rejected(reason)
      observing = undefined
      if (onRejected == null) throw reason
      return onRejected(reason)
    })
  } catch (error) {
    observing?.rejected(error)
    throw error
  }
}
