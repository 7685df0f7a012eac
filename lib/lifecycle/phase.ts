// The phase of the shutdown.

import type { Phase } from '../../types/index.ts'
import { setMaxListeners } from 'node:events'

/** In their order. */
export const PHASES: readonly Phase[] = ['running', 'delaying', 'draining', 'closing', 'closed']

/** The current phase. Only the shutdown advances it. */
export class PhaseClock {
  /** A plain field, because each request reads it. */
  current: Phase = 'running'
  readonly #abort = new AbortController()
  /** Aborts when the instance leaves `running`. */
  readonly signal: AbortSignal = this.#abort.signal

  constructor () {
    try {
      // Each event stream adds a listener. Node would warn of a leak at the eleventh.
      setMaxListeners(0, this.signal)
    } catch {
      // Not Node's own: a test environment such as jsdom has replaced AbortController.
    }
  }

  /** Advances to a later phase. Phases may be skipped. */
  advance (next: Phase): void {
    this.current = next
    this.#abort.abort()
  }
}
