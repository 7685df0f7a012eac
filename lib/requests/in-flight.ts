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
  /** All but the newest. */
  readonly #counted = new Map<ServerResponse, Exchange>()
  /**
   * The newest one that counts, until the next arrives. Mostly it is over by then; to put each one into a Map that is empty,
   * and to empty that again, takes more instructions than all else that is done for a request here.
   */
  #newest: Exchange | undefined
  /** Refused, opted out, or arrived since the gate shut: nothing waits for them. */
  readonly #uncounted = new Map<ServerResponse, Exchange>()
  /** Over, because their clients have gone; Fastify may call another handler of theirs, of an error for instance. */
  readonly #left = new WeakMap<ServerResponse, Exchange>()
  readonly #log: unknown
  #isCounting = true
  #whenIdle: (() => void) | undefined
  /** Requests that were answered in full. */
  completed = 0

  /** @param log whose serializer shows requests that a hook holds which was registered ahead of the plugin's */
  constructor (log: unknown) {
    this.#log = log
  }

  /** Requests in flight. */
  get count (): number {
    return this.#counted.size + (this.#newest === undefined ? 0 : 1)
  }

  /** From now on, requests that arrive do not count. */
  stopCounting (): void {
    this.#isCounting = false
  }

  /** A request has arrived. */
  arrive (request: IncomingMessage, response: ServerResponse): Exchange {
    const exchange = new Exchange(request, response)
    if (this.#isCounting) this.#add(exchange)
    else this.#uncounted.set(response, exchange)
    return exchange
  }

  #add (exchange: Exchange): void {
    const before = this.#newest
    if (before !== undefined) this.#counted.set(before.response, before)
    this.#newest = exchange
  }

  #delete (exchange: Exchange): boolean {
    if (this.#newest !== exchange) return this.#counted.delete(exchange.response)
    this.#newest = undefined
    return true
  }

  /** The exchange of a response, as long as it is not over. */
  find (response: ServerResponse): Exchange | undefined {
    const newest = this.#newest
    if (newest !== undefined && newest.response === response) return newest
    return this.#counted.get(response) ?? this.#uncounted.get(response)
  }

  /** The requests in flight, as they are now, in the order of their arrival. */
  get exchanges (): Exchange[] {
    return [...this.#counted.values(), ...this.#newest === undefined ? [] : [this.#newest]]
  }

  /** Those that do not count and are not over. */
  get uncounted (): Exchange[] {
    return [...this.#uncounted.values()]
  }

  /** What is in flight, oldest first. */
  list (): RequestInFlight[] {
    return this.exchanges.map(exchange => this.describe(exchange))
  }

  /** What log and report show of a request. */
  describe (exchange: Exchange): RequestInFlight {
    return describe(exchange, this.#log)
  }

  /** Whether a request counts: it arrived before the gate shut, and has neither been refused nor opted out. */
  counts (exchange: Exchange): boolean {
    return exchange === this.#newest || this.#counted.has(exchange.response)
  }

  /** Fastify has parsed the body of this response's request, and goes on to its handler. */
  parsed (response: ServerResponse): void {
    const exchange = this.find(response)
    if (exchange !== undefined) exchange.isParsed = true
  }

  /** The request of this response counts no more, because its route has opted out. */
  optOut (response: ServerResponse): void {
    const exchange = this.find(response)
    if (exchange === undefined || !this.#delete(exchange)) return
    this.#uncounted.set(response, exchange)
    this.#settleIdle()
  }

  /**
   * An upgrade is asked for. It counts only if it is served as a request: by the handler of a plain route, which a client that
   * offers h2c may reach if another plugin takes upgrades.
   */
  arriveUpgrade (exchange: Exchange): void {
    exchange.isUpgrade = true
    this.optOut(exchange.response)
  }

  #count (exchange: Exchange): void {
    exchange.isUpgrade = false
    if (this.#uncounted.delete(exchange.response)) this.#add(exchange)
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
    // Nothing waits for the handler of one that does not count.
    if (isOver(exchange) || (exchange.wire !== 'open' && !this.counts(exchange))) this.leave(exchange)
  }

  /** Looks at everything that is not over. */
  checkAll (): void {
    for (const exchange of [...this.exchanges, ...this.uncounted]) {
      if (exchange.reply === undefined && exchange.startedAt === 0) exchange.startedAt = now()
      this.check(exchange)
    }
  }

  #finish (exchange: Exchange): void {
    if (exchange.handlers > 0) exchange.keepAge()
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
    exchange.answered ||= exchange.handler === 'unreached' && exchange.isBodyLost
  }

  /** Fastify says nothing of an answer that no client waits for; so this one reply is asked to. */
  awaitAnswer (exchange: Exchange): void {
    const { handlers, answered: isAnswered, reply, response } = exchange
    if (handlers > 0 || isAnswered) return
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
    if (!this.#delete(exchange)) {
      this.#uncounted.delete(exchange.response)
      return
    }
    if (exchange.wire === 'orphaned') this.#left.set(exchange.response, exchange)
    this.#settleIdle()
  }

  /**
   * A handler, of which is known when it is done: of a route, of errors, or of what is not found. Fastify alone calls `then`
   * of what it returns, unless that is a plain promise.
   */
  observe<H extends AnyHandler> (handler: H): H {
    const isAsync = types.isAsyncFunction(handler)
    const reach = (reply: FastifyReply | undefined) => this.#reachHandler(reply, isAsync)
    const threw = (exchange: Exchange) => { this.#endHandler(exchange, 'settled') }
    const returned = (exchange: Exchange, reply: unknown, result: unknown) => this.#handlerReturned(exchange, reply, result)
    // Other plugins call a route's handler, too: @fastify/websocket with a socket and a request.
    const observed = function (this: unknown, first: unknown, second: unknown, third: unknown) {
      const reply = (third ?? second) as FastifyReply | undefined
      const exchange = reach(reply)
      if (exchange === undefined) return handler.call(this, first, second, third)
      let result: unknown
      try {
        result = handler.call(this, first, second, third)
      } catch (error) {
        threw(exchange)
        throw error
      }
      return returned(exchange, reply, result)
    }
    return Object.defineProperties(observed, Object.getOwnPropertyDescriptors(handler)) as unknown as H
  }

  #reachHandler (reply: FastifyReply | undefined, isAsync: boolean): Exchange | undefined {
    const response = reply?.raw
    if (response === undefined) return undefined
    const exchange = this.find(response) ?? this.#reenter(response)
    if (exchange === undefined) return undefined
    if (exchange.isUpgrade) this.#count(exchange)
    // One may call another: that of errors, or of what is not found.
    exchange.handlers++
    if (exchange.handler === 'unreached') exchange.handler = 'returned'
    if (!isAsync) watchStreams(reply as FastifyReply, () => { exchange.answered = true })
    return exchange
  }

  #handlerReturned (exchange: Exchange, reply: unknown, result: unknown): unknown {
    // A reply has a `then`, too, which tells of the response.
    if (result === reply || !isThenable(result)) {
      this.#endHandler(exchange, exchange.handler)
      return result
    }
    const settled = () => { this.#endHandler(exchange, 'settled') }
    // Fastify hears of it next, and calls the handler of errors.
    const rejected = () => { queueMicrotask(settled) }
    if (!isPlainPromise(result)) return observeThenable(result, settled, rejected)
    observePromise(result, settled, rejected)
    return result
  }

  #endHandler (exchange: Exchange, state: Handler): void {
    exchange.handlers--
    exchange.handler = state
    if (exchange.wire === 'open') return
    if (exchange.wire === 'orphaned') this.awaitAnswer(exchange)
    this.check(exchange)
  }

  /** A request whose client has gone, and that was over. */
  #reenter (response: ServerResponse): Exchange | undefined {
    const exchange = this.#left.get(response)
    if (exchange === undefined) return undefined
    exchange.answered = false
    this.#add(exchange)
    this.awaitAnswer(exchange)
    return exchange
  }

  /** Resolves once no request is in flight. */
  async idle (): Promise<void> {
    if (this.count > 0) await new Promise<void>(resolve => { this.#whenIdle = resolve })
  }

  #settleIdle (): void {
    if (this.count === 0) this.#whenIdle?.()
  }
}

/** Whether nothing of a request runs any more: its client is done with, and so is its handler. */
function isOver ({ wire, handlers, handler, answered }: Exchange): boolean {
  if (wire === 'open' || handlers > 0) return false
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
