// How late timers are, because the machine is busy, or because something has blocked the event loop.

import { monotonic } from './trace.ts'

/** When a timer fired, and how late it was. */
export type Lag = [t: number, late: number]

const INTERVAL = 10

/** What is not worth noting. */
const LEAST = 2

/** Returns a function that ends it. */
export function watchLag (): () => Lag[] {
  const lags: Lag[] = []
  let last = monotonic()
  const beat = (): void => {
    const time = monotonic()
    const late = time - last - INTERVAL
    if (late > LEAST) lags.push([time, late])
    last = time
  }
  const timer = setInterval(beat, INTERVAL).unref()
  return () => {
    clearInterval(timer)
    beat()
    return lags
  }
}

/** How late timers were in all that fired between these times. */
export function sumOf (lags: readonly Lag[], from: number, to: number): number {
  let sum = 0
  for (const [t, late] of lags) if (t >= from && t - late <= to) sum += late
  return sum
}
