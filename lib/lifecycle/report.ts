// What a shutdown has to report: what was cut, and what went wrong.

import type { CallbackReport, InFlightEntry, ShutdownReport } from '../../types/index.ts'
import { messageOf } from '../values.ts'

/** Errors that are kept; of more, only the number. A process that fails without end would else run out of memory. */
const MOST_ERRORS = 20

export class Outcome {
  readonly #errors: Error[] = []
  readonly #cut = new Map<object, InFlightEntry>()
  #omittedErrors = 0

  /** Takes note of an error. False if it is one of too many, which are only counted. */
  addError (error: Error): boolean {
    if (this.#errors.length < MOST_ERRORS) return this.#errors.push(error) > 0
    this.#omittedErrors++
    return false
  }

  /** Takes note of a request or of background work that was cut, once. */
  addCut (what: object, entry: InFlightEntry): void {
    if (!this.#cut.has(what)) this.#cut.set(what, entry)
  }

  get isClean (): boolean {
    return this.#cut.size === 0 && this.#errors.length === 0
  }

  /** Completes a report. */
  report (rest: Omit<ShutdownReport, 'cut' | 'errors' | 'omittedErrors' | 'exitCode'>): ShutdownReport {
    const isClean = this.isClean && rest.callbacks.every(({ error }) => error === undefined)
    return { ...rest, cut: [...this.#cut.values()], errors: [...this.#errors], omittedErrors: this.#omittedErrors, exitCode: isClean ? 0 : 1 }
  }
}

/** JSON has nothing to say of an Error; each was logged with its stack when it came. */
export function loggable (report: ShutdownReport): object {
  const callbacks = report.callbacks.map(({ error, ...callback }: CallbackReport) => error === undefined
    ? callback
    : { ...callback, error: messageOf(error) })
  return { ...report, callbacks, errors: report.errors.map(messageOf) }
}
