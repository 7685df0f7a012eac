// The requests in flight, from their arrival until nothing of them runs any more.
//
// The Node server tells of each request as it arrives, ahead of every hook. Whether a request is over is asked in one
// place, `isOver`, of the facts as they are; hooks, events, promises and the sweep only say that it is time to ask. So an
// end that no hook tells of, because another plugin's hook failed ahead of ours, is found by the next sweep.

import type { FastifyReply } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { RequestInFlight } from '../../types/index.ts'
import { types } from 'node:util'
import { now } from '../clock.ts'
import { describe } from './describe.ts'
import { Exchange, type Handler } from './exchange.ts'
import { isPlainPromise, isThenable, observePromise, observeThenable } from './thenable.ts'

type AnyHandler = (this: any, ...args: any[]) => unknown // oxlint-disable-line no-explicit-any

export class InFlight {
  readonly #counted = new Map<ServerResponse, Exchange>()
  /** Refused, opted out, or arrived since the gate shut: nothing waits for them. */
  readonly #uncounted = new Map<ServerResponse, Exchange>()
  /** Over, because Fastify will not have their bodies; a parser of the user's may go on without. */
  readonly #withoutBody = new WeakMap<ServerResponse, Exchange>()
  /** Mostly, hooks and handlers run in the turn in which their request arrives: this one need not be looked up. */
  #latest: Exchange | undefined
  #isCounting = true
  #whenIdle: (() => void) | undefined
  /** Requests that were answered in full. */
  completed = 0

  /** Requests in flight. */
  get count (): number {
    return this.#counted.size
  }

  /** From now on, requests that arrive do not count. */
  stopCounting (): void {
    this.#isCounting = false
  }

  /** A request has arrived. */
  arrive (request: IncomingMessage, response: ServerResponse): Exchange {
    const exchange = new Exchange(request, response)
    this.#latest = exchange
    const exchanges = this.#isCounting ? this.#counted : this.#uncounted
    exchanges.set(response, exchange)
    return exchange
  }

  /** The exchange of a response, as long as it is not over. */
  find (response: ServerResponse): Exchange | undefined {
    if (this.#latest?.response === response) return this.#latest
    return this.#counted.get(response) ?? this.#uncounted.get(response)
  }

  /** The requests in flight, as they are now, in the order of their arrival. */
  get exchanges (): Exchange[] {
    return [...this.#counted.values()]
  }

  /** Those that do not count and are not over. */
  get uncounted (): Exchange[] {
    return [...this.#uncounted.values()]
  }

  /** What is in flight, oldest first. */
  list (): RequestInFlight[] {
    return this.exchanges.map(describe)
  }

  /** Whether a request counts: it arrived before the gate shut, and has neither been refused nor opted out. */
  counts ({ response }: Exchange): boolean {
    return this.#counted.has(response)
  }

  /** The request of this response counts no more, because its route has opted out. */
  optOut (response: ServerResponse): void {
    const exchange = this.find(response)
    if (exchange === undefined || !this.#counted.delete(response)) return
    this.#uncounted.set(response, exchange)
    this.#settleIdle()
  }

  /** Fastify's onResponse: the response has been sent, or has failed. */
  responded (response: ServerResponse): Exchange | undefined {
    const exchange = this.find(response)
    if (exchange === undefined) return undefined
    if (exchange.wire === 'open' && response.writableEnded && !exchange.isGone) this.#finish(exchange)
    this.check(exchange)
    return exchange
  }

  /** Its connection or stream is closed. */
  closed (exchange: Exchange): void {
    this.check(exchange)
    if (exchange.wire === 'orphaned') exchange.tellClosed()
  }

  /** Looks at the facts. A request that is over leaves. */
  check (exchange: Exchange): void {
    if (exchange.wire === 'open') {
      if (exchange.isFinished) {
        this.#finish(exchange)
      } else if (exchange.isGone) {
        this.orphan(exchange)
        this.awaitAnswer(exchange)
      }
    }
    if (isOver(exchange)) this.leave(exchange)
  }

  /** Looks at everything that is not over. */
  checkAll (): void {
    for (const exchange of [...this.exchanges, ...this.uncounted]) {
      if (exchange.reply === undefined && exchange.startedAt === 0) exchange.startedAt = now()
      this.check(exchange)
    }
  }

  #finish (exchange: Exchange): void {
    if (exchange.handler === 'running') exchange.keepAge()
    exchange.wire = 'finished'
    exchange.previous = undefined
    if (this.counts(exchange)) this.completed++
  }

  /** No client waits for the handler any more, because it has gone or is answered in the handler's place. */
  orphan (exchange: Exchange): void {
    if (exchange.wire !== 'open') return
    exchange.keepAge()
    exchange.wire = 'orphaned'
    // A hijacked reply is over with its connection.
    exchange.answered ||= exchange.isAnswered || exchange.reply?.sent === true
    if (exchange.handler !== 'unreached' || !exchange.isBodyLost) return
    exchange.answered = true
    this.#withoutBody.set(exchange.response, exchange)
  }

  /** Fastify says nothing of an answer that no client waits for; so this one reply is asked to. */
  awaitAnswer (exchange: Exchange): void {
    const { handler, answered: isAnswered, reply, response } = exchange
    if (handler === 'running' || isAnswered) return
    const answered = () => {
      exchange.answered = true
      this.check(exchange)
    }
    if (reply !== undefined) beforeCall(reply, 'send', answered)
    beforeCall(response, 'end', answered)
    response.once('pipe', answered)
  }

  /** Counts a request no more, and forgets it. */
  leave (exchange: Exchange): void {
    if (this.#latest === exchange) this.#latest = undefined
    if (this.#counted.delete(exchange.response)) this.#settleIdle()
    else this.#uncounted.delete(exchange.response)
  }

  /**
   * A handler, of which is known when it is done: of a route, of errors, or of what is not found. Fastify alone calls `then`
   * of what it returns, unless that is a plain promise.
   */
  observe<H extends AnyHandler> (handler: H): H {
    const isAsync = types.isAsyncFunction(handler)
    const reach = (reply: FastifyReply | undefined) => this.#reachHandler(reply, isAsync)
    const end = (exchange: Exchange, state: Handler) => { this.#endHandler(exchange, state) }
    // Other plugins call a route's handler, too: @fastify/websocket with a socket and a request.
    const observed = function (this: unknown, first: unknown, second: unknown, third: unknown) {
      const reply = (third ?? second) as FastifyReply | undefined
      const exchange = reach(reply)
      if (exchange === undefined) return handler.call(this, first, second, third)
      let result: unknown
      try {
        result = handler.call(this, first, second, third)
      } catch (error) {
        end(exchange, 'settled')
        throw error
      }
      // A reply has a `then`, too, which tells of the response.
      if (result === reply || !isThenable(result)) {
        end(exchange, 'returned')
        return result
      }
      const settled = () => { end(exchange, 'settled') }
      if (!isPlainPromise(result)) return observeThenable(result, settled)
      observePromise(result, settled, settled)
      return result
    }
    return Object.defineProperties(observed, Object.getOwnPropertyDescriptors(handler)) as unknown as H
  }

  #reachHandler (reply: FastifyReply | undefined, isAsync: boolean): Exchange | undefined {
    const response = reply?.raw
    if (response === undefined) return undefined
    const exchange = this.find(response) ?? this.#reenter(response)
    if (exchange === undefined) return undefined
    // As long as it has not returned: an injected request may be finished by then.
    exchange.handler = 'running'
    if (!isAsync) watchStreams(reply as FastifyReply, () => { exchange.answered = true })
    return exchange
  }

  #endHandler (exchange: Exchange, state: Handler): void {
    exchange.handler = state
    if (exchange.wire !== 'open') this.check(exchange)
  }

  /** Its client left with the body half sent, and so it was over; a parser of the user's has gone on with what there was. */
  #reenter (response: ServerResponse): Exchange | undefined {
    const exchange = this.#withoutBody.get(response)
    if (exchange === undefined) return undefined
    exchange.answered = false
    this.#counted.set(response, exchange)
    this.awaitAnswer(exchange)
    return exchange
  }

  /** Resolves once no request is in flight. */
  async idle (): Promise<void> {
    if (this.#counted.size > 0) await new Promise<void>(resolve => { this.#whenIdle = resolve })
  }

  #settleIdle (): void {
    if (this.#counted.size === 0) this.#whenIdle?.()
  }
}

/** Whether nothing of a request runs any more: its client is done with, and so is its handler. */
function isOver ({ wire, handler, answered }: Exchange): boolean {
  if (wire === 'open' || handler === 'running') return false
  // A handler that returned no promise may still be at work for a client that has gone: its answer tells.
  return wire === 'finished' || handler === 'settled' || answered
}

/** A stream that waits for its first byte is an answer, too, of which nothing else tells. */
function watchStreams (reply: FastifyReply, answered: () => void): void {
  reply.raw.once('pipe', answered)
  beforeCall(reply, 'send', (payload: unknown) => {
    // A stream of the web's is read, not piped.
    if (payload instanceof ReadableStream || payload instanceof Response) answered()
  })
}

type Methods<K extends string> = Record<K, (...args: never[]) => unknown>

/** From now on, ahead of each call of the method. */
function beforeCall<K extends string> (object: Methods<K>, name: K, callback: (argument: unknown) => void): void {
  const { [name]: method } = object
  object[name] = (...args) => {
    callback(args[0])
    return method.apply(object, args)
  }
}
