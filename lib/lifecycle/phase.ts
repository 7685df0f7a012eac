// The phases of a shutdown, and their order.

import type { Phase } from '../../types/index.ts'

const ORDER: readonly Phase[] = ['running', 'delaying', 'draining', 'closing', 'closed']

/** The current phase. Only the shutdown advances it. */
export class PhaseClock {
  /** A plain field, because each request reads it. */
  current: Phase = 'running'
  /** Created on first use, because aborting one costs more than the rest of the step. */
  #abort: AbortController | undefined

  /** Aborts when the instance leaves `running`. */
  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.current !== 'running') this.#abort.abort()
    }
    return this.#abort.signal
  }

  /** Advances to a later phase. Phases may be skipped, but not revisited. */
  advance (next: Phase): void {
    if (ORDER.indexOf(next) <= ORDER.indexOf(this.current)) {
      throw new Error(`A shutdown cannot go from ${this.current} to ${next}`)
    }
    const isFirst = this.current === 'running'
    this.current = next
    if (isFirst) this.#abort?.abort()
  }
}
