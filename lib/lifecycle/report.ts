// The report of a shutdown: what it waited for, what was cut, and what went wrong.

import type { DrainedEntry, InFlightEntry, ShutdownReport } from '../../types/index.ts'
import { messageOf } from '../values.ts'

/** How many errors are kept; more are only counted. An endlessly failing process would run out of memory. */
const MOST_ERRORS = 20

/** How many entries `slowest` has. */
const MOST_SLOWEST = 5

export class Outcome {
  readonly #errors: Error[] = []
  readonly #cut = new Map<object, InFlightEntry>()
  /** The last to end, oldest first. */
  readonly #drained = new Map<object, DrainedEntry>()
  #omittedErrors = 0

  /** Adds an error. Returns false if it is known, or if the limit is reached and it is only counted. */
  addError (error: Error): boolean {
    if (this.#errors.includes(error)) return false
    const isKept = this.#errors.length < MOST_ERRORS
    if (isKept) this.#errors.push(error)
    else this.#omittedErrors++
    return isKept
  }

  /** Adds a request or background work that was cut; only once. */
  addCut (what: object, entry: InFlightEntry): void {
    if (!this.#cut.has(what)) this.#cut.set(what, entry)
  }

  /** Adds a request or background work that ended during the drain. A request may end twice, if Fastify calls its error handler late. */
  addDrained (what: object, entry: DrainedEntry): void {
    this.#drained.delete(what)
    this.#drained.set(what, entry)
    const [oldest] = this.#drained.keys()
    if (this.#drained.size > MOST_SLOWEST) this.#drained.delete(oldest as object)
  }

  get cutCount (): number {
    return this.#cut.size
  }

  report (rest: Omit<ShutdownReport, 'cut' | 'slowest' | 'errors' | 'omittedErrors' | 'exitCode'>): ShutdownReport {
    const cut = [...this.#cut.values()]
    const slowest = [...this.#drained.values()].toReversed()
    const errors = [...this.#errors]
    const isClean = cut.length + errors.length === 0 && rest.callbacks.every(({ error }) => error === undefined)
    return { ...rest, cut, slowest, errors, omittedErrors: this.#omittedErrors, exitCode: isClean ? 0 : 1 }
  }
}

/** How many entries of `cut` a log line has. More would delay the exit: a pipe takes 64 KB at a time. */
const MOST_LOGGED = 100

/** JSON omits the fields of an Error; each was logged with its stack when it occurred. */
export function loggable (report: ShutdownReport): object {
  const callbacks = report.callbacks.map(entry => entry.error === undefined ? entry : { ...entry, error: messageOf(entry.error) })
  const cut = report.cut.slice(0, MOST_LOGGED)
  return { ...report, cut, cutCount: report.cut.length, callbacks, errors: report.errors.map(messageOf) }
}
