// Timers and clocks as they were when this package was loaded. A test suite (node:test, vitest, sinon) may replace them and
// close its instances while the fake time stands still.

import timers from 'node:timers'

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers

export const nextTick: typeof process.nextTick = process.nextTick.bind(process)

/** Milliseconds, with fractions, from an arbitrary start. */
export const now: () => number = performance.now.bind(performance)

export async function sleep (milliseconds: number): Promise<void> {
  await new Promise<void>(resolve => { setTimeout(resolve, milliseconds) })
}

/**
 * Resolves when the event loop has polled once for everything that may have arrived. The first immediate still belongs to the
 * current iteration. A timer would fire before events that queued up while the process was not scheduled.
 */
export async function wholeTurn (): Promise<void> {
  await new Promise<void>(resolve => { setImmediate(() => { setImmediate(resolve) }) })
}

/** A timer after which the event loop polls once more, for the same reason. One immediate does, because timers run before the poll. */
export function setLateTimeout (callback: () => void, milliseconds: number): NodeJS.Timeout {
  return setTimeout(setImmediate, milliseconds, callback)
}

/**
 * An interval, for the same reason; it does not keep the process alive. Returns what ends it.
 * @param callback gets the time when it was due, on the clock of now(): what has begun since then may have blocked the event loop
 */
export function setLateInterval (callback: (due: number) => void, milliseconds: number): () => void {
  let hasEnded = false
  const timer = setInterval(() => {
    const due = now()
    void wholeTurn().then(() => { if (!hasEnded) callback(due) })
  }, milliseconds).unref()
  return () => {
    hasEnded = true
    clearInterval(timer)
  }
}

export const TIMED_OUT = Symbol('graceful.timed-out')

/**
 * Settles as the promise does, or resolves to TIMED_OUT after `limit` milliseconds. If the process was stopped or blocked, what has
 * become ready meanwhile is in time. Leaves no timer behind.
 */
export async function within<T> (limit: number, promise: Promise<T>): Promise<T | typeof TIMED_OUT> {
  let timer: NodeJS.Timeout | undefined
  const timeUp = new Promise<typeof TIMED_OUT>(resolve => {
    timer = setLateTimeout(() => { resolve(TIMED_OUT) }, Math.max(0, limit))
  })
  try {
    return await Promise.race([promise, timeUp])
  } finally {
    clearTimeout(timer)
  }
}
