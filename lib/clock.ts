// Timers and clocks as they were when this package was loaded. A test suite (node:test, vitest, sinon) may replace them and
// close its instances while the fake time stands still.

import timers from 'node:timers'

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers

/** Milliseconds, with fractions, from an arbitrary start. */
export const now: () => number = performance.now.bind(performance)

export async function sleep (milliseconds: number): Promise<void> {
  await new Promise<void>(resolve => { setTimeout(resolve, milliseconds) })
}

/**
 * Calls back when the event loop has polled once for everything that may have arrived. The first immediate still belongs to the
 * current iteration. A timer would fire before events that queued up while the process was not scheduled.
 */
export function afterTurn (callback: () => void): void {
  setImmediate(() => { setImmediate(callback) })
}

export async function wholeTurn (): Promise<void> {
  await new Promise<void>(afterTurn)
}

export const TIMED_OUT = Symbol('graceful.timed-out')

/**
 * Settles as the promise does, or resolves to TIMED_OUT after `limit` milliseconds. If the process was stopped or blocked, what has
 * become ready meanwhile is in time. Leaves no timer behind.
 */
export async function within<T> (limit: number, promise: Promise<T>): Promise<T | typeof TIMED_OUT> {
  let timer: NodeJS.Timeout | undefined
  const timeUp = new Promise<typeof TIMED_OUT>(resolve => {
    timer = setTimeout(afterTurn, Math.max(0, limit), () => { resolve(TIMED_OUT) })
  })
  try {
    return await Promise.race([promise, timeUp])
  } finally {
    clearTimeout(timer)
  }
}
