// Subscribes to one of Node's diagnostics channels only while something needs it. Node's channels are those of the process, and a
// subscriber keeps the module that it is part of in memory: Jest loads all modules again for each test file.

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

  /** Subscribes for the first holder. A holder counts once, however often it calls this. */
  hold (holder: object): void {
    if (this.#holders.size === 0) subscribe(this.#name, this.#subscriber)
    this.#holders.add(holder)
  }

  /** Unsubscribes for the last holder. */
  release (holder: object): void {
    if (this.#holders.delete(holder) && this.#holders.size === 0) unsubscribe(this.#name, this.#subscriber)
  }
}
