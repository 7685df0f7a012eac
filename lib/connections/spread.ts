// Closes long-lived connections one after another: if the connections of many clients are closed at the same time, they also reconnect at
// the same time. Envoy calls this a gradual drain strategy.

import { once } from 'node:events'
import { now, within } from '../clock.ts'
import { SPREAD_INTERVAL } from '../times.ts'

/** What stays open until it is ended, and what ends it. */
export type LongLived = [what: object, end: () => void]

/**
 * Ends what is open evenly over a time, and resolves early if nothing is left. What opens meanwhile is included.
 * @param open everything that is open, including what has been asked to end
 * @param skipped ends the rest at once when it aborts
 */
export async function spreadOver (time: number, open: () => LongLived[], skipped: AbortSignal): Promise<void> {
  const timeUp = now() + time
  const skip = once(skipped, 'abort')
  const asked = new WeakSet<object>()
  for (let due = 1; ; due %= 1) {
    const left = open().filter(([what]) => !asked.has(what))
    const rest = skipped.aborted ? 0 : timeUp - now()
    due += rest > SPREAD_INTERVAL ? left.length * SPREAD_INTERVAL / rest : left.length
    for (const [what, end] of left.slice(0, due)) {
      asked.add(what)
      end()
    }
    if (due >= left.length) return
    await within(SPREAD_INTERVAL, skip)
  }
}
