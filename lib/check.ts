// A check behind a probe.

import type { ProbeCheck } from '../types/index.ts'
import type { SafeLog } from './lifecycle/log.ts'
import { now, TIMED_OUT, within } from './clock.ts'
import { CheckFailedError, CheckTimeoutError } from './errors.ts'
import { CHECK_RETRY } from './times.ts'
import { toError } from './values.ts'

/**
 * Probes that arrive while it runs share the run. If a run takes too long, probes fail at once until it has ended: it may hold a
 * connection of a pool, and more runs would exhaust that. Only changes are logged, because probes arrive every second.
 */
export class Check {
  readonly name: string
  readonly #check: ProbeCheck
  readonly #timeout: number
  readonly #log: SafeLog
  #running: Promise<boolean> | undefined
  /** How many runs have started. */
  #started = 0
  /** The number of the newest run that has ended. Older ones that are still pending are not waited for. */
  #ended = 0
  /** When the newest run started, on the clock of now(). */
  #startedAt = 0
  #isFailing = false

  constructor (name: string, check: ProbeCheck, timeout: number, log: SafeLog) {
    this.name = name
    this.#check = check
    this.#timeout = timeout
    this.#log = log
  }

  /** Whether it passes, by a new run or the one in progress. Never rejects. */
  async passes (): Promise<boolean> {
    if (this.#running === undefined && this.#isStuck) return false
    this.#running ??= this.#run()
    return await this.#running
  }

  /**
   * Whether a run that has timed out is pending, and it is too early for another one. A run may never end, although another one would
   * pass. So after twice `checkTimeout` a probe starts another one, and the wait doubles with each run that is pending.
   */
  get #isStuck (): boolean {
    const pending = this.#started - this.#ended
    return pending > 0 && now() - this.#startedAt < Math.min(CHECK_RETRY, this.#timeout * 2 ** pending)
  }

  async #run (): Promise<boolean> {
    const error = await this.#findError()
    this.#running = undefined
    const isFailing = error !== undefined
    if (isFailing && !this.#isFailing) this.#log.warn(`Check "${this.name}" is failing`, { err: error })
    if (!isFailing && this.#isFailing) this.#log.info(`Check "${this.name}" has recovered`)
    this.#isFailing = isFailing
    return !isFailing
  }

  async #findError (): Promise<Error | undefined> {
    try {
      const result = await within(this.#timeout, this.#call())
      if (result === TIMED_OUT) return new CheckTimeoutError(this.name, this.#timeout)
      return result === false ? new CheckFailedError(this.name) : undefined
    } catch (error) {
      return toError(error)
    }
  }

  async #call (): Promise<unknown> {
    const number = ++this.#started
    this.#startedAt = now()
    try {
      return await Promise.resolve().then(this.#check)
    } finally {
      this.#ended = Math.max(this.#ended, number)
    }
  }
}
