// Goodbyes without a stampede: clients whose connections are closed at the same time also reconnect at the same time. Envoy calls the
// same a gradual drain strategy.

import { once } from 'node:events'
import { now, within } from '../clock.ts'
import { SPREAD_INTERVAL } from '../times.ts'

/** What stays open until it is ended, and what ends it. */
export type Goodbye = [to: object, say: () => void]

/**
 * Says goodbyes evenly over a time, each once, and ends early if none is left. What opens meanwhile is included.
 * @param open what is open, whether it has been told or not
 * @param skipped says the rest at once when it aborts
 */
export async function spreadOver (time: number, open: () => Goodbye[], skipped: AbortSignal): Promise<void> {
  const end = now() + time
  const skip = once(skipped, 'abort')
  const told = new WeakSet<object>()
  for (let due = 1; ; due %= 1) {
    const left = open().filter(([to]) => !told.has(to))
    const rest = skipped.aborted ? 0 : end - now()
    due += rest > SPREAD_INTERVAL ? left.length * SPREAD_INTERVAL / rest : left.length
    for (const [to, say] of left.slice(0, due)) {
      told.add(to)
      say()
    }
    if (due >= left.length) return
    await within(SPREAD_INTERVAL, skip)
  }
}
