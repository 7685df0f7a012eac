// A subscriber of a diagnostics channel of Node, while anything needs it. Node holds a subscriber for good, and it holds what loaded this
// module: with Jest, all modules of a test file.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'

type Subscriber = Parameters<typeof subscribe>[1]

export class Subscription {
  readonly #name: string
  readonly #subscriber: Subscriber
  readonly #holders = new Set<object>()

  constructor (name: string, subscriber: Subscriber) {
    this.#name = name
    this.#subscriber = subscriber
  }

  /** Subscribes, if nothing else has, until each holder has called `release()`. */
  hold (holder: object): void {
    if (this.#holders.size === 0) subscribe(this.#name, this.#subscriber)
    this.#holders.add(holder)
  }

  release (holder: object): void {
    if (this.#holders.delete(holder) && this.#holders.size === 0) unsubscribe(this.#name, this.#subscriber)
  }
}
