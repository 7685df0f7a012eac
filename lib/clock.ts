// Timers and clocks as they were when this package was loaded. A test suite (node:test, vitest, sinon) may replace them and
// close its instances while the fake time stands still.

import timers from 'node:timers'

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers

/** Milliseconds, with fractions, from an arbitrary start. */
export const now: () => number = performance.now.bind(performance)

export async function sleep (milliseconds: number): Promise<void> {
  await new Promise<void>(resolve => { setTimeout(resolve, milliseconds) })
}
