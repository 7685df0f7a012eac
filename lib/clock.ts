// Time, as it was when this package was loaded. A test suite may replace timers and clocks, in node:test, vitest or sinon,
// and close its instances while they stand still.

import timers from 'node:timers'

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers

/** Milliseconds, with fractions, from an arbitrary start. */
export const now: () => number = performance.now.bind(performance)

export async function sleep (milliseconds: number): Promise<void> {
  await new Promise<void>(resolve => { setTimeout(resolve, milliseconds) })
}
