// Shutdown callbacks, each within its time; an error does not stop the others. Those for the start of the shutdown run at the same
// time, and the drain waits for them; those for its end run one after another, in the order registered.

import type { CallbackOptions, CallbackReport, ShutdownCallback } from '../../types/index.ts'
import type { Channels } from './channels.ts'
import type { SafeLog } from './log.ts'
import { TIMED_OUT, now, within } from '../clock.ts'
import { Deferred } from '../deferred.ts'
import { CallbackInvalidError, CallbackTimeoutError, CallbackTooLateError } from '../errors.ts'
import { resolveCallbackOptions } from '../options.ts'
import { show, toError } from '../values.ts'
import { createAbortController } from './abort.ts'

const DRAINED = Symbol('graceful.drained')

interface Registered {
  callback: ShutdownCallback
  name: string
  timeout: number | undefined
  when: 'start' | 'end'
  hasEnded: boolean
}

export class Callbacks {
  readonly #shutdownTimeout: number
  readonly #log: SafeLog
  readonly #channels: Channels
  readonly #registered: Registered[] = []
  /** One for each callback that has ended. */
  readonly reports: CallbackReport[] = []
  #running: 'none' | 'start' | 'end' = 'none'
  readonly #drained = new Deferred<typeof DRAINED>()

  constructor (shutdownTimeout: number, log: SafeLog, channels: Channels) {
    this.#shutdownTimeout = shutdownTimeout
    this.#log = log
    this.#channels = channels
  }

  register (callback: ShutdownCallback, options: CallbackOptions = {}): void {
    if (typeof callback !== 'function') throw new CallbackInvalidError(show(callback))
    const { name, timeout, when = 'end' } = resolveCallbackOptions(options, this.#shutdownTimeout)
    const entry = {
      callback, name: name ?? (ownName(callback) || `callback ${this.#registered.length + 1}`), timeout, when, hasEnded: false
    }
    if (this.#running === 'end' || this.#running === when) throw new CallbackTooLateError(entry.name)
    this.#registered.push(entry)
  }

  #of (when: Registered['when']): Registered[] {
    return this.#registered.filter(entry => entry.when === when)
  }

  get hasAnyForEnd (): boolean {
    return this.#of('end').length > 0
  }

  /** The names of the callbacks that have not ended, including those that have not started. */
  get unfinished (): string[] {
    return this.#registered.filter(({ hasEnded }) => !hasEnded).map(({ name }) => name)
  }

  /** Starts those for the start of the shutdown. Returns the work of each, which never rejects. */
  start (reason: string, limit: number): Array<[name: string, work: Promise<void>]> {
    this.#running = 'start'
    return this.#of('start').map(entry => [entry.name, this.#run(entry, Math.min(entry.timeout ?? limit, limit), reason, limit)])
  }

  /** The drain has ended: those that still run have taken too long. */
  endDrain (): void {
    this.#drained.resolve(DRAINED)
  }

  /**
   * Runs those for the end of the shutdown. Each gets an equal share of the time left, or its own timeout, which may be shortened so
   * that each later callback keeps half of an equal share of the whole time. Time that a callback does not use is left to the later
   * ones. Never rejects: errors are in the reports.
   */
  async run (reason: string, deadline: number): Promise<void> {
    this.#running = 'end'
    const entries = this.#of('end')
    const kept = Math.max(0, deadline - now()) / entries.length / 2
    for (const [index, entry] of entries.entries()) {
      const left = Math.max(0, deadline - now())
      const later = entries.length - index - 1
      const equal = left / (later + 1)
      await this.#run(entry, Math.min(entry.timeout ?? equal, Math.max(equal, left - later * kept)), reason)
    }
  }

  /** @param drainLimit how long the drain takes at most, if its end also ends the callback */
  async #run (entry: Registered, limit: number, reason: string, drainLimit?: number): Promise<void> {
    const callback = await this.#runOne(entry, limit, reason, drainLimit)
    this.reports.push(callback)
    entry.hasEnded = true
    this.#channels.publish('callback', () => ({ callback }))
  }

  async #runOne ({ callback, name }: Registered, limit: number, reason: string, drainLimit?: number): Promise<CallbackReport> {
    const log = this.#log.child({ shutdownCallback: name })
    const controller = createAbortController()
    const context = { signal: controller.signal, deadline: Math.floor(Date.now() + limit), reason, log }
    const start = now()
    let error: Error | undefined
    try {
      // Called from a promise, so that a synchronous throw needs no special case.
      const call = Promise.resolve(context).then(callback)
      const end = drainLimit === undefined ? call : Promise.race([call, this.#drained.promise])
      // No timer if the drain's end is the limit: it might fire just before, and the drain would find nothing to cut.
      const outcome = limit === drainLimit ? await end : await within(limit, end)
      if (outcome === TIMED_OUT) error = new CallbackTimeoutError(name, Math.round(limit))
      else if (outcome === DRAINED) error = new CallbackTimeoutError(name, Math.round(now() - start))
    } catch (thrown) {
      error = toError(thrown)
    }
    const time = Math.round(now() - start)
    if (error === undefined) {
      this.#log.info(`Shutdown callback "${name}" completed in ${time}ms`, { shutdownCallback: name })
      return { name, time }
    }
    controller.abort(error)
    this.#log.error(`Shutdown callback "${name}" failed after ${time}ms`, { err: error, shutdownCallback: name })
    return { name, time, error }
  }
}

/** A function's name may be replaced by any value. */
function ownName ({ name }: ShutdownCallback): string {
  return typeof name === 'string' ? name : ''
}
