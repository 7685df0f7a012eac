// The phases of a shutdown, which may follow which, and when each began.

import type { Phase } from '../types/index.ts'

const ORDER: readonly Phase[] = ['running', 'delaying', 'draining', 'closing', 'closed']

/** Where one instance stands on its way out. Only the shutdown moves it. */
export class PhaseClock {
  /** A plain field: the request path reads it on every request. */
  current: Phase = 'running'
  /** Made as somebody asks for it: to abort one takes longer than all the rest of a step. */
  #abort: AbortController | undefined

  /** Aborts as the instance leaves `running`. */
  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.current !== 'running') this.#abort.abort()
    }
    return this.#abort.signal
  }

  /** Goes on to a later phase; phases may be left out, but nothing leads back. */
  advance (next: Phase): void {
    if (ORDER.indexOf(next) <= ORDER.indexOf(this.current)) {
      throw new Error(`A shutdown cannot go from ${this.current} to ${next}`)
    }
    const first = this.current === 'running'
    this.current = next
    if (first) this.#abort?.abort()
  }
}
