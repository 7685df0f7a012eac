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

  get cutCount (): number {
    return this.#cut.size
  }

  /** Completes a report. */
  report (rest: Omit<ShutdownReport, 'cut' | 'errors' | 'omittedErrors' | 'exitCode'>): ShutdownReport {
    const cut = [...this.#cut.values()]
    const errors = [...this.#errors]
    const isClean = cut.length + errors.length === 0 && rest.callbacks.every(({ error }) => error === undefined)
    return { ...rest, cut, errors, omittedErrors: this.#omittedErrors, exitCode: isClean ? 0 : 1 }
  }
}

/** Entries of `cut` that a log line has. More of them would delay the exit: a pipe takes 64 KB at a time. */
const MOST_LOGGED = 100

/** JSON has nothing to say of an Error; each was logged with its stack when it came. */
export function loggable (report: ShutdownReport): object {
  const callbacks = report.callbacks.map(({ error, ...callback }: CallbackReport) => error === undefined
    ? callback
    : { ...callback, error: messageOf(error) })
  const cut = report.cut.slice(0, MOST_LOGGED)
  return { ...report, cut, cutCount: report.cut.length, callbacks, errors: report.errors.map(messageOf) }
}
