// What is in flight: requests, from their arrival until nothing of them runs any more, and background work.
//
// The Node server tells of each request as it arrives, ahead of every hook. Whether a request is over is asked in one
// place, `isOver`, of the facts as they are; hooks, events, promises and the sweep only say that it is time to ask. So an
// end that no hook tells of, because another plugin's hook failed ahead of ours, is found by the next sweep.

import type { FastifyInstance, FastifyReply, RouteHandlerMethod } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { InFlightEntry, TaskInFlight } from '../../types/index.ts'
import type { Exchange } from './exchange.ts'
import { types } from 'node:util'
import { TrackInvalidError } from '../errors.ts'
import { isPlainPromise, isThenable, nameOf, show, toError } from '../values.ts'
import { describe } from './describe.ts'
import { createExchange } from './exchange.ts'

interface Task {
  name: string
  since: number
}

export class InFlight {
  readonly #counted = new Map<ServerResponse, Exchange>()
  /** Refused, opted out, or arrived since the gate shut: nothing waits for them. */
  readonly #uncounted = new Map<ServerResponse, Exchange>()
  /** Over, because Fastify will not have their bodies; a parser of the user's may go on without. */
  readonly #withoutBody = new WeakMap<ServerResponse, Exchange>()
  readonly #tasks = new Set<Task>()
  readonly #onTaskError: (name: string, error: Error) => void
  #isCounting = true
  #latest: Exchange | undefined
  #whenIdle: (() => void) | undefined
  /** Requests that were answered in full. */
  completed = 0

  /** @param onTaskError is told of tracked background work that fails */
  constructor (onTaskError: (name: string, error: Error) => void) {
    this.#onTaskError = onTaskError
  }

  /** Requests in flight. */
  get count (): number {
    return this.#counted.size
  }

  /** Background work in flight. */
  get tasks (): number {
    return this.#tasks.size
  }

  /** From now on, requests that arrive do not count. */
  stopCounting (): void {
    this.#isCounting = false
  }

  /** A request has arrived. */
  arrive (request: IncomingMessage, response: ServerResponse): Exchange {
    const exchange = createExchange(request, response)
    this.#latest = exchange
    ;(this.#isCounting ? this.#counted : this.#uncounted).set(response, exchange)
    return exchange
  }

  /** The exchange of a response, as long as it is not over. */
  find (response: ServerResponse): Exchange | undefined {
    // Mostly, hooks and handlers run in the turn in which their request arrives.
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

  /** Whether a request counts: it arrived before the gate shut, and has neither been refused nor opted out. */
  counts (exchange: Exchange): boolean {
    return this.#counted.has(exchange.response)
  }

  /** Counts a request no more; its connection is still known to have it. */
  exclude (exchange: Exchange): void {
    if (!this.#counted.delete(exchange.response)) return
    this.#uncounted.set(exchange.response, exchange)
    this.#settleIdle()
  }

  /** The request of this response is of a route that has opted out. */
  optOut (response: ServerResponse): void {
    const exchange = this.find(response)
    if (exchange !== undefined) this.exclude(exchange)
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

  /** No client waits for the handler any more, because it has gone or is answered in the handler's place. */
  orphan (exchange: Exchange): void {
    if (exchange.wire !== 'open') return
    exchange.wire = 'orphaned'
    // A hijacked reply is over with its connection.
    exchange.answered ||= exchange.isAnswered || exchange.reply?.sent === true
    if (exchange.handler !== 'unreached' || !exchange.isBodyLost) return
    exchange.answered = true
    this.#withoutBody.set(exchange.response, exchange)
  }

  /** Fastify says nothing of an answer that no client waits for; so this one reply is asked to. */
  awaitAnswer (exchange: Exchange): void {
    if (exchange.handler === 'running' || exchange.answered) return
    const answered = () => {
      exchange.answered = true
      this.check(exchange)
    }
    if (exchange.reply !== undefined) beforeCall(exchange.reply, 'send', answered)
    beforeCall(exchange.response, 'end', answered)
    exchange.response.once('pipe', answered)
  }

  #finish (exchange: Exchange): void {
    exchange.wire = 'finished'
    exchange.previous = undefined
    if (this.#counted.has(exchange.response)) this.completed++
  }

  /** Looks at the facts. A request that is over leaves. */
  check (exchange: Exchange): void {
    if (exchange.wire === 'open') {
      if (exchange.isFinished) this.#finish(exchange)
      else if (exchange.isGone) {
        this.orphan(exchange)
        this.awaitAnswer(exchange)
      }
    }
    if (isOver(exchange)) this.leave(exchange)
  }

  /** Counts a request no more, and forgets it. */
  leave (exchange: Exchange): void {
    if (this.#latest === exchange) this.#latest = undefined
    if (this.#counted.delete(exchange.response)) this.#settleIdle()
    else this.#uncounted.delete(exchange.response)
  }

  /** Looks at everything that is not over. */
  checkAll (): void {
    const now = performance.now()
    for (const exchange of [...this.#counted.values(), ...this.#uncounted.values()]) {
      if (exchange.seenAt === 0) exchange.seenAt = now
      this.check(exchange)
    }
  }

  /**
   * A route's handler, of which is known when it is done. Fastify alone calls `then` of what it returns, unless that is
   * a plain promise.
   */
  observe (handler: RouteHandlerMethod): RouteHandlerMethod {
    const returnsPromise = types.isAsyncFunction(handler)
    const enter = (reply: FastifyReply | undefined) => this.#enterHandler(reply?.raw, returnsPromise)
    const settle = (exchange: Exchange) => { this.#settleHandler(exchange) }
    // Other plugins call a route's handler, too: @fastify/websocket with a socket and a request.
    const observed = function observed (this: FastifyInstance, ...args: Parameters<RouteHandlerMethod>) {
      const [, reply] = args
      const exchange = enter(reply)
      const result: unknown = handler.apply(this, args)
      // A reply has a `then`, too, which tells of the response.
      if (exchange === undefined || result === reply || !isThenable(result)) return result
      exchange.handler = 'running'
      const settled = () => { settle(exchange) }
      if (!isPlainPromise(result)) return observeThenable(result, settled)
      result.then(settled, settled)
      return result
    }
    return Object.defineProperties(observed, Object.getOwnPropertyDescriptors(handler))
  }

  #enterHandler (response: ServerResponse | undefined, returnsPromise: boolean): Exchange | undefined {
    if (response === undefined) return undefined
    const exchange = this.find(response) ?? this.#reenter(response)
    if (exchange === undefined) return undefined
    exchange.handler = 'returned'
    // A stream that waits for its first byte is an answer, too.
    if (!returnsPromise) response.once('pipe', () => { exchange.answered = true })
    return exchange
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

  #settleHandler (exchange: Exchange): void {
    exchange.handler = 'settled'
    if (exchange.wire !== 'open') this.check(exchange)
  }

  /**
   * Has the drain wait for background work. A plain promise is watched; `then` of any other thenable is called by its
   * owner alone, because each call may run a query again.
   */
  track<T extends PromiseLike<unknown>> (promise: T, name: unknown): T {
    const task: Task = { name: nameOf(name), since: performance.now() }
    const done = () => {
      this.#tasks.delete(task)
      this.#settleIdle()
    }
    const failed = (thrown: unknown) => {
      this.#onTaskError(task.name, toError(thrown))
      done()
    }
    this.#tasks.add(task)
    try {
      if (!isThenable(promise)) throw new TrackInvalidError(show(promise))
      if (isPlainPromise(promise)) void promise.then(done, failed)
      else patchThen(promise, done, failed)
    } catch (error) {
      this.#tasks.delete(task)
      throw error instanceof TrackInvalidError ? error : new TrackInvalidError(show(promise))
    }
    return promise
  }

  listTasks (): TaskInFlight[] {
    const now = performance.now()
    return [...this.#tasks].map(({ name, since }) => ({ kind: 'task', name, age: Math.round(now - since) }))
  }

  /** What is in flight: requests, oldest first, then background work. */
  list (): InFlightEntry[] {
    return [...this.exchanges.map(describe), ...this.listTasks()]
  }

  /** Resolves to true once nothing is in flight, to false when the time is up. */
  async idle (timeout: number): Promise<boolean> {
    if (this.#isIdle()) return true
    return await new Promise(resolve => {
      const timer = setTimeout(resolve, timeout, false)
      this.#whenIdle = () => {
        clearTimeout(timer)
        resolve(true)
      }
    })
  }

  #isIdle (): boolean {
    return this.#counted.size === 0 && this.#tasks.size === 0
  }

  #settleIdle (): void {
    if (this.#whenIdle !== undefined && this.#isIdle()) this.#whenIdle()
  }
}

/** Whether nothing of a request runs any more: its client is done with, and so is its handler. */
function isOver ({ wire, handler, answered }: Exchange): boolean {
  if (wire === 'open' || handler === 'running') return false
  // A handler that returned no promise may still be at work for a client that has gone: its answer tells.
  return wire === 'finished' || handler === 'settled' || answered
}

type Callback = (value: unknown) => unknown

/** Calls `then` of a thenable for somebody else, and tells of its end; so of a `then` that throws. */
function thenFor (thenable: PromiseLike<unknown>, onFulfilled: Callback | null | undefined, onRejected: Callback | null | undefined,
  fulfilled: () => void, rejected: (reason: unknown) => void): PromiseLike<unknown> {
  try {
    return thenable.then(value => {
      fulfilled()
      return onFulfilled == null ? value : onFulfilled(value)
    }, reason => {
      rejected(reason)
      if (onRejected == null) throw reason
      return onRejected(reason)
    })
  } catch (error) {
    rejected(error)
    throw error
  }
}

/** A stand-in for a thenable: `then` of that is called as often as `then` of this. */
function observeThenable (thenable: PromiseLike<unknown>, settled: () => void): PromiseLike<unknown> {
  return { then: ((...callbacks: [Callback?, Callback?]) => thenFor(thenable, ...callbacks, settled, settled)) as PromiseLike<unknown>['then'] }
}

/** Observes the next call of a thenable's `then`, whoever makes it. */
function patchThen (thenable: PromiseLike<unknown>, fulfilled: () => void, rejected: (reason: unknown) => void): void {
  const own = Object.getOwnPropertyDescriptor(thenable, 'then')
  const value = (...[onFulfilled, onRejected]: [Callback?, Callback?]) => {
    if (own === undefined) delete (thenable as { then?: unknown }).then
    else Object.defineProperty(thenable, 'then', own)
    return thenFor(thenable, onFulfilled, onRejected, fulfilled, rejected)
  }
  Object.defineProperty(thenable, 'then', { value, configurable: true, writable: true, enumerable: own?.enumerable ?? false })
}

/** From now on, ahead of each call of the method. */
function beforeCall<K extends string> (object: Record<K, (...args: never[]) => unknown>, name: K, callback: () => void): void {
  const { [name]: method } = object
  object[name] = (...args) => {
    callback()
    return method.apply(object, args)
  }
}
