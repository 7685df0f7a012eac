// Thenables of the user's. Each call of a lazy one's `then`, a query builder's for instance, does its work again: so `then` is
// called by the code that would have called it anyway, and only observed.

/* oxlint-disable unicorn/no-thenable */

import { types } from 'node:util'

type Callback = (value: unknown) => unknown

/** Whether a value has a `then` method. It reads `then`, as `await` does. */
export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return value != null && typeof (value as PromiseLike<unknown>).then === 'function'
}

const { then: promiseThen } = Promise.prototype // oxlint-disable-line unbound-method

/** Whether it is a promise as the language makes them, of this realm or of another one (node:vm, Jest). */
export function isPlainPromise (value: PromiseLike<unknown>): value is Promise<unknown> {
  if (value instanceof Promise && value.then === promiseThen) return true
  return types.isPromise(value) && isPromisePrototype(Object.getPrototypeOf(value) as object)
}

/** That of a subclass has another one between it and Object's. */
function isPromisePrototype (prototype: object): boolean {
  return Object.getPrototypeOf(Object.getPrototypeOf(prototype)) === null
}

/** Observes a plain promise. It runs nothing of the user's, even if the promise has a `then` of its own. */
export function observePromise (promise: Promise<unknown>, fulfilled: () => void, rejected: (reason: unknown) => void): void {
  if (promise.then === promiseThen) void promise.then(fulfilled, rejected)
  else void promiseThen.call(promise, fulfilled, rejected)
}

/** A stand-in for a thenable: `then` of that is called as often as `then` of this. */
export function observeThenable (thenable: PromiseLike<unknown>, fulfilled: () => void, rejected: () => void): PromiseLike<unknown> {
  const then = (...callbacks: [Callback?, Callback?]) => thenFor(thenable, callbacks, fulfilled, rejected)
  return { then: then as PromiseLike<unknown>['then'] }
}

/** Observes the next call of a thenable's `then`, whatever makes it. */
export function observeNextThen (thenable: PromiseLike<unknown>, fulfilled: () => void, rejected: (reason: unknown) => void): void {
  const own = Object.getOwnPropertyDescriptor(thenable, 'then')
  const value = (...callbacks: [Callback?, Callback?]) => {
    if (own === undefined) delete (thenable as { then?: unknown }).then
    else Object.defineProperty(thenable, 'then', own)
    return thenFor(thenable, callbacks, fulfilled, rejected)
  }
  Object.defineProperty(thenable, 'then', { value, configurable: true, writable: true })
}

/** Calls `then` in place of other code, and tells of its end; also of a `then` that throws. */
function thenFor (thenable: PromiseLike<unknown>, [onFulfilled, onRejected]: [Callback?, Callback?],
  fulfilled: () => void, rejected: (reason: unknown) => void): PromiseLike<unknown> {
  try {
    return thenable.then(value => {
      fulfilled()
      return onFulfilled == null ? value : onFulfilled(value)
    }, reason => {
      rejected(reason)
      if (onRejected == null) throw reason
      return onRejected(reason)
    })
  } catch (error) {
    rejected(error)
    throw error
  }
}
