// The phases of a shutdown, and which may follow which.

import type { Phase } from '../../types/index.ts'

const ORDER: readonly Phase[] = ['running', 'delaying', 'draining', 'closing', 'closed']

/** How far an instance is on its way out. Only the shutdown moves it. */
export class PhaseClock {
  /** A plain field, because each request reads it. */
  current: Phase = 'running'
  /** Made when it is asked for: to abort one takes longer than all else of a step. */
  #abort: AbortController | undefined

  /** Aborts as the instance leaves `running`. */
  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.current !== 'running') this.#abort.abort()
    }
    return this.#abort.signal
  }

  /** Goes on to a later phase. Phases may be left out, but nothing leads back. */
  advance (next: Phase): void {
    if (ORDER.indexOf(next) <= ORDER.indexOf(this.current)) {
      throw new Error(`A shutdown cannot go from ${this.current} to ${next}`)
    }
    const isFirst = this.current === 'running'
    this.current = next
    if (isFirst) this.#abort?.abort()
  }
}
