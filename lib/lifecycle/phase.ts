// The phase of the shutdown.

import type { Phase } from '../../types/index.ts'
import { createAbortController } from './abort.ts'

/** In their order. */
export const PHASES: readonly Phase[] = ['running', 'delaying', 'draining', 'closing', 'closed']

/** The current phase. Only the shutdown advances it. */
export class PhaseClock {
  /** A plain field, because each request reads it. */
  current: Phase = 'running'
  readonly #abort = createAbortController()
  /** Aborts when the instance leaves `running`. */
  readonly signal: AbortSignal = this.#abort.signal

  /** Advances to a later phase. Phases may be skipped. */
  advance (next: Phase): void {
    this.current = next
    this.#abort.abort()
  }
}
