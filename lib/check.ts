// A check behind a probe.

import type { ProbeCheck } from '../types/index.ts'
import type { SafeLog } from './lifecycle/log.ts'
import { TIMED_OUT, within } from './clock.ts'
import { CheckFailedError, CheckTimeoutError } from './errors.ts'
import { toError } from './values.ts'

/** Runs once at a time; probes that arrive meanwhile share the run. Only changes are logged, because probes arrive every second. */
export class Check {
  readonly name: string
  readonly #check: ProbeCheck
  readonly #timeout: number
  readonly #log: SafeLog
  #running: Promise<boolean> | undefined
  #isFailing = false

  constructor (name: string, check: ProbeCheck, timeout: number, log: SafeLog) {
    this.name = name
    this.#check = check
    this.#timeout = timeout
    this.#log = log
  }

  /** Whether it passes, by a new run or the one in progress. Never rejects. */
  async passes (): Promise<boolean> {
    this.#running ??= this.#run()
    return await this.#running
  }

  async #run (): Promise<boolean> {
    const error = await this.#findError()
    // A run that timed out may never settle, so the next probe starts another.
    this.#running = undefined
    const isFailing = error !== undefined
    if (isFailing && !this.#isFailing) this.#log.warn(`Check "${this.name}" is failing`, { err: error })
    if (!isFailing && this.#isFailing) this.#log.info(`Check "${this.name}" has recovered`)
    this.#isFailing = isFailing
    return !isFailing
  }

  async #findError (): Promise<Error | undefined> {
    try {
      const result = await within(this.#timeout, Promise.resolve().then(this.#check))
      if (result === TIMED_OUT) return new CheckTimeoutError(this.name, this.#timeout)
      return result === false ? new CheckFailedError(this.name) : undefined
    } catch (error) {
      return toError(error)
    }
  }
}
