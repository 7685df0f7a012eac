// Shutdown callbacks: run one after another, in the order registered, each within its time; an error does not stop the others.

import type { CallbackOptions, CallbackReport, ShutdownCallback } from '../../types/index.ts'
import type { Channels } from './channels.ts'
import type { SafeLog } from './log.ts'
import { TIMED_OUT, now, within } from '../clock.ts'
import { CallbackInvalidError, CallbackTimeoutError, CallbackTooLateError } from '../errors.ts'
import { resolveCallbackOptions } from '../options.ts'
import { show, toError } from '../values.ts'

interface Registered {
  callback: ShutdownCallback
  name: string
  timeout: number | undefined
}

export class Callbacks {
  readonly #shutdownTimeout: number
  readonly #log: SafeLog
  readonly #channels: Channels
  readonly #registered: Registered[] = []
  /** One for each callback that has ended. */
  readonly reports: CallbackReport[] = []
  #areRunning = false

  constructor (shutdownTimeout: number, log: SafeLog, channels: Channels) {
    this.#shutdownTimeout = shutdownTimeout
    this.#log = log
    this.#channels = channels
  }

  register (callback: ShutdownCallback, options: CallbackOptions = {}): void {
    if (typeof callback !== 'function') throw new CallbackInvalidError(show(callback))
    const { name, timeout } = resolveCallbackOptions(options, this.#shutdownTimeout)
    const entry = { callback, name: name ?? (ownName(callback) || `callback ${this.#registered.length + 1}`), timeout }
    if (this.#areRunning) throw new CallbackTooLateError(entry.name)
    this.#registered.push(entry)
  }

  get isEmpty (): boolean {
    return this.#registered.length === 0
  }

  /** The names of the callbacks that have not ended. */
  get unfinished (): string[] {
    return this.#registered.slice(this.reports.length).map(({ name }) => name)
  }

  /** Runs all callbacks. Never rejects: errors are in the reports. */
  async run (reason: string, deadline: number): Promise<void> {
    this.#areRunning = true
    for (const [index, entry] of this.#registered.entries()) {
      const later = this.#registered.length - index - 1
      const limit = share(entry.timeout, later, Math.max(0, deadline - now()))
      const callback = await this.#runOne(entry, limit, reason)
      this.reports.push(callback)
      this.#channels.publish('callback', () => ({ callback }))
    }
  }

  async #runOne ({ callback, name }: Registered, limit: number, reason: string): Promise<CallbackReport> {
    const log = this.#log.child({ shutdownCallback: name })
    const controller = new AbortController()
    const context = { signal: controller.signal, deadline: Date.now() + limit, reason, log }
    const start = now()
    let error: Error | undefined
    try {
      // Called from a promise, so that a synchronous throw needs no special case.
      const outcome = await within(limit, Promise.resolve(context).then(callback))
      if (outcome === TIMED_OUT) error = new CallbackTimeoutError(name, Math.round(limit))
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

/**
 * A callback's share of the time left: a fair share, or its own timeout, which may be shortened so that each later callback
 * keeps half of its fair share. Time that a callback does not use is left to the later ones.
 */
function share (timeout: number | undefined, later: number, left: number): number {
  const fair = left / (later + 1)
  return timeout === undefined ? fair : Math.min(timeout, left - later * fair / 2)
}
