// Shutdown callbacks: in the order registered, one after another, each within its time, errors kept apart.

import type { FastifyBaseLogger } from 'fastify'
import type { CallbackOptions, CallbackReport, ShutdownCallback } from '../types/index.ts'
import { CallbackInvalidError, CallbackTimeoutError, CallbackTooLateError, toError } from './errors.ts'
import { resolveCallbackOptions, show } from './options.ts'
import { TIMED_OUT, within } from './within.ts'

interface Registered {
  callback: ShutdownCallback
  name: string
  timeout: number | undefined
}

export class Callbacks {
  readonly #shutdownTimeout: number
  readonly #registered: Registered[] = []
  #started = false
  #finished = 0

  constructor (shutdownTimeout: number) {
    this.#shutdownTimeout = shutdownTimeout
  }

  register (callback: ShutdownCallback, options: CallbackOptions = {}): void {
    if (typeof callback !== 'function') throw new CallbackInvalidError(show(callback))
    const { name, timeout } = resolveCallbackOptions(options, this.#shutdownTimeout)
    const entry = { callback, name: name ?? (callback.name || `callback ${this.#registered.length + 1}`), timeout }
    if (this.#started) throw new CallbackTooLateError(entry.name)
    this.#registered.push(entry)
  }

  /** The names of those that have not run to their end. */
  get unfinished (): string[] {
    return this.#registered.slice(this.#finished).map(({ name }) => name)
  }

  /** Runs them all. It never rejects: what goes wrong is in the report. */
  async run (reason: string, deadline: number, log: FastifyBaseLogger): Promise<CallbackReport[]> {
    this.#started = true
    const reports: CallbackReport[] = []
    for (const [index, entry] of this.#registered.entries()) {
      const later = this.#registered.slice(index + 1)
      const limit = share(entry, later, Math.max(0, deadline - performance.now()))
      reports.push(await runOne(entry, limit, reason, log))
      this.#finished++
    }
    return reports
  }
}

/**
 * A callback's share of the time that is left: its own timeout, as far as each later one keeps half of its
 * fair share, or a fair share. What a callback does not use is there for the later ones.
 */
function share ({ timeout }: Registered, later: Registered[], left: number): number {
  const fair = left / (later.length + 1)
  return timeout === undefined ? fair : Math.min(timeout, left - later.length * fair / 2)
}

async function runOne ({ callback, name }: Registered, limit: number, reason: string, parent: FastifyBaseLogger): Promise<CallbackReport> {
  const log = parent.child({ shutdownCallback: name })
  const controller = new AbortController()
  const start = performance.now()
  const report: CallbackReport = { name, time: 0 }
  try {
    const context = { signal: controller.signal, deadline: Date.now() + limit, reason, log }
    // Called from a promise, so that one which throws synchronously is no special case.
    const outcome = await within(limit, Promise.resolve(context).then(callback))
    if (outcome === TIMED_OUT) throw new CallbackTimeoutError(name, Math.round(limit))
  } catch (thrown) {
    report.error = toError(thrown)
  }
  report.time = Math.round(performance.now() - start)
  if (report.error === undefined) {
    log.info(`Shutdown callback "${name}" completed in ${report.time}ms`)
  } else {
    controller.abort(report.error)
    log.error({ err: report.error }, `Shutdown callback "${name}" failed after ${report.time}ms`)
  }
  return report
}
