// A call of a handler: whether the handler is done.

import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import type { Observer } from './thenable.ts'
import { hasNativeThen, isThenable, ObservedPromise, observeThenable } from './thenable.ts'

export class HandlerCall implements Observer {
  /**
   * - `returned`: if the handler returned no promise, only its answer shows that it is done.
   * - `settled`: the handler's promise has settled, or it threw.
   */
  state: 'returned' | 'settled' = 'returned'
  /** Whether the handler, if it is async, waits for the response, as it does if it returns the reply. */
  isReplyAwaited = false
  readonly #inFlight: InFlight
  readonly #exchange: Exchange
  /** What the caller got in place of a pending promise. */
  #promise: ObservedPromise | undefined = undefined

  constructor (inFlight: InFlight, exchange: Exchange) {
    this.#inFlight = inFlight
    this.#exchange = exchange
    // One handler may call another: the error or not-found handler. From then on, that one decides.
    exchange.call?.observeIfDropped()
    exchange.call = this
    exchange.runningHandlers++
    // What was sent before is not the answer: it was the error, or the missing route, that led to this handler.
    exchange.isSending = exchange.hasAnswered = false
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
    if (!isErrorHandler && hasNativeThen(result)) return this.#standIn(result)
    // If it cannot be observed, only the answer shows that the handler is done.
    if (!observeThenable(result, this)) this.#end('returned')
    return result
  }

  #standIn (promise: Promise<unknown>): ObservedPromise {
    const { call, wire } = this.#exchange
    const observed = this.#promise = new ObservedPromise(promise, this)
    // Otherwise, nothing may check this call again.
    if (call !== this || wire !== 'open') observed.observeIfDropped()
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

  /** Called once no client waits for the handler, or when another handler is called: the caller may never call `then`. */
  observeIfDropped (): void {
    this.#promise?.observeIfDropped()
  }

  #end (state: HandlerCall['state']): void {
    this.state = state
    // With it, what the handler has returned could not be collected.
    this.#promise = undefined
    const exchange = this.#exchange
    exchange.runningHandlers--
    if (exchange.wire !== 'open') this.#inFlight.checkSoon(exchange)
  }
}
