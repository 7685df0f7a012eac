// Waits for a promise for a limited time.

import { clearTimeout, setTimeout } from '../clock.ts'

export const TIMED_OUT = Symbol('graceful.timed-out')

/** Settles as the promise does, or resolves to TIMED_OUT after `limit` milliseconds. Leaves no timer behind. */
export async function within<T> (limit: number, promise: Promise<T>): Promise<T | typeof TIMED_OUT> {
  let timer: NodeJS.Timeout | undefined
  const timeUp = new Promise<typeof TIMED_OUT>(resolve => {
    timer = setTimeout(resolve, Math.max(0, limit), TIMED_OUT)
  })
  try {
    return await Promise.race([promise, timeUp])
  } finally {
    clearTimeout(timer)
  }
}
