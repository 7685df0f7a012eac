// A call of a handler: whether the handler is done.

import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import { isPlainPromise, isThenable, ObservedPromise, observeThenable } from './thenable.ts'

export class HandlerCall {
  /**
   * - `returned`: if the handler returned no promise, only its answer shows that it is done.
   * - `settled`: the handler's promise has settled, or it threw.
   */
  state: 'returned' | 'settled' = 'returned'
  /** Whether the handler, if it is async, waits for the response, as it does if it returns the reply. */
  isReplyAwaited = false
  readonly #inFlight: InFlight
  readonly #exchange: Exchange
  #promise: ObservedPromise | undefined = undefined

  constructor (inFlight: InFlight, exchange: Exchange) {
    this.#inFlight = inFlight
    this.#exchange = exchange
    // One handler may call another: the error or not-found handler. From then on, that one decides.
    exchange.call?.observe()
    exchange.call = this
    exchange.runningHandlers++
    // What was sent before is not the answer: it was the error, or the missing route, that led to this handler.
    if (exchange.hasAnswered) exchange.isSending = exchange.hasAnswered = false
  }

  /** Returns what the caller of the handler gets. */
  returned (reply: unknown, result: unknown): unknown {
    // A reply also has a `then`, which waits for the response.
    if (result === reply || !isThenable(result)) {
      this.#end('returned')
      return result
    }
    if (isPlainPromise(result)) return this.#promise = new ObservedPromise(result, this)
    // Otherwise only the answer shows that the handler is done.
    if (!this.#observe(result)) this.#end('returned')
    return result
  }

  #observe (thenable: PromiseLike<unknown>): boolean {
    const settled = () => { this.settled() }
    return observeThenable(thenable, settled, settled)
  }

  threw (): void {
    this.#end('settled')
  }

  settled (): void {
    this.#end(this.isReplyAwaited ? 'returned' : 'settled')
  }

  /** The caller may have dropped the promise. */
  observe (): void {
    this.#promise?.observe()
  }

  #end (state: HandlerCall['state']): void {
    this.state = state
    const exchange = this.#exchange
    exchange.runningHandlers--
    if (exchange.wire !== 'open') this.#inFlight.checkSoon(exchange)
  }
}
