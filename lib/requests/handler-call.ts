// A call of a handler: whether the handler is done.

import type { Exchange } from './exchange.ts'
import type { Observer } from './thenable.ts'
import { hasNativeThen, isThenable, ObservedPromise, observeThenable, stopObserving } from './thenable.ts'

export class HandlerCall implements Observer {
  /**
   * - `returned`: if the handler returned no promise, only its answer shows that it is done.
   * - `settled`: the handler's promise has settled, or it threw.
   */
  state: 'returned' | 'settled' = 'returned'
  /** Whether the handler, if it is async, waits for the response, as it does if it returns the reply. */
  isReplyAwaited = false
  readonly #exchange: Exchange
  /** What the caller got, until it settles. */
  #pending: ObservedPromise | PromiseLike<unknown> | undefined = undefined

  constructor (exchange: Exchange) {
    this.#exchange = exchange
    // One handler may call another: the error or not-found handler. From then on, that one decides.
    exchange.call?.observeIfDropped()
    exchange.call = this
    exchange.runningHandlers++
    // What was sent before is not the answer: it was the error, or the missing route, that led to this handler.
    // (Once it is sending, it has answered.)
    if (exchange.hasAnswered) exchange.isSending = exchange.hasAnswered = false
  }

  /**
   * Returns what the caller of the handler gets.
   * @param isErrorHandler other code may call it, too, and gets its promise: `fastify.errorHandler()`
   */
  returned (reply: unknown, result: unknown, isErrorHandler: boolean): unknown {
    // A reply also has a `then`, which waits for the response.
    if (result === reply || !isThenable(result)) {
      this.#end('returned')
      return result
    }
    if (isErrorHandler || !hasNativeThen(result)) {
      this.#pending = result
      // If it cannot be observed, only the answer shows that the handler is done.
      if (!observeThenable(result, this)) this.#end('returned')
      return result
    }
    const observed = this.#pending = new ObservedPromise(result, this)
    // Nothing checks this call again.
    if (this.#exchange.call !== this) observed.observeIfDropped()
    return observed
  }

  threw (): void {
    this.#end('settled')
  }

  fulfilled (): void {
    this.#end(this.isReplyAwaited ? 'returned' : 'settled')
  }

  rejected (): void {
    this.fulfilled()
  }

  /**
   * The caller may never call `then`: it has returned nothing, for example. Of a promise, the plugin does, because its handler is running.
   * Nothing is known of another thenable. Called by sweeps once no client waits for the handler, and when another handler is called.
   */
  observeIfDropped (): void {
    const pending = this.#pending
    if (pending instanceof ObservedPromise) pending.observeIfDropped()
    else if (pending !== undefined && stopObserving(pending, this)) this.#end('returned')
  }

  #end (state: HandlerCall['state']): void {
    this.state = state
    // With it, what the handler has returned could not be collected.
    this.#pending = undefined
    const exchange = this.#exchange
    exchange.runningHandlers--
    if (exchange.wire !== 'open') exchange.owner.checkSoon(exchange)
  }
}
