// Handlers of routes, of errors and of not-found requests: how many of a request are running.

import type { FastifyReply } from 'fastify'
import type { InFlight } from './in-flight.ts'
import { types } from 'node:util'
import { beforeCall } from '../before-call.ts'
import { Exchange, type Handler } from './exchange.ts'
import { isPlainPromise, isThenable, observeNextThen, observePromise } from './thenable.ts'

type AnyHandler = (this: any, ...args: any[]) => unknown // oxlint-disable-line no-explicit-any

export class Handlers {
  readonly #inFlight: InFlight

  constructor (inFlight: InFlight) {
    this.#inFlight = inFlight
  }

  /**
   * Wraps a handler of a route, of errors or of not-found requests, to see when it is done. Only Fastify calls `then` of what
   * it returns, unless that is a plain promise.
   */
  observe<H extends AnyHandler> (handler: H): H {
    const isAsync = types.isAsyncFunction(handler)
    const handlers = this
    // Other plugins also call route handlers: @fastify/websocket passes a socket and a request.
    const observed = function (this: unknown, first: unknown, second: unknown, third: unknown) {
      const reply = (third ?? second) as FastifyReply | undefined
      const exchange = handlers.#reach(reply, isAsync)
      if (exchange === undefined) return handler.call(this, first, second, third)
      let result: unknown
      try {
        result = handler.call(this, first, second, third)
      } catch (error) {
        handlers.#ended(exchange, 'settled')
        throw error
      }
      return handlers.#returned(exchange, reply, result)
    }
    return Object.defineProperties(observed, Object.getOwnPropertyDescriptors(handler)) as unknown as H
  }

  #reach (reply: FastifyReply | undefined, isAsync: boolean): Exchange | undefined {
    // A hook registered before the plugin may have failed.
    const exchange = Exchange.of(reply) ?? (reply && this.#inFlight.reach(reply))
    if (exchange === undefined) return undefined
    if (exchange.hasLeft) this.#inFlight.reenter(exchange)
    if (exchange.wire === 'orphaned') this.#inFlight.awaitAnswer(exchange)
    // One handler may call another: the error or not-found handler.
    exchange.handlers++
    // Before it, only its error or its absence was sent.
    exchange.isSending = exchange.hasAnswered = false
    // Once for each response: its error handlers may be reached many times.
    if (!isAsync && !exchange.isObserved) {
      exchange.isObserved = true
      watchWebStreams(reply as FastifyReply, () => { exchange.hasAnswered = true })
    }
    exchange.handler = 'returned'
    return exchange
  }

  #returned (exchange: Exchange, reply: unknown, result: unknown): unknown {
    // A reply also has a `then`, which waits for the response.
    if (result === reply || !isThenable(result)) {
      this.#ended(exchange, exchange.handler)
      return result
    }
    const settled = () => { this.#ended(exchange, 'settled') }
    try {
      if (isPlainPromise(result)) observePromise(result, settled, settled)
      else observeNextThen(result, settled, settled)
    } catch {
      // A frozen thenable: only the answer shows that the handler is done.
      this.#ended(exchange, exchange.handler)
    }
    return result
  }

  #ended (exchange: Exchange, state: Handler): void {
    exchange.handlers--
    exchange.handler = state
    if (exchange.wire === 'open') return
    // After a rejection, Fastify calls the error handler in the same microtask.
    queueMicrotask(() => { this.#inFlight.check(exchange) })
  }
}

/** A web stream that waits for its first byte is also an answer, but it is read, not piped, so nothing else reports it. */
function watchWebStreams (reply: FastifyReply, answered: () => void): void {
  beforeCall(reply, 'send', (payload: unknown) => {
    if (payload instanceof ReadableStream || payload instanceof Response) answered()
  })
}
