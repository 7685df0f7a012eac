// Who is in flight: requests and background work, from their start until nothing of them runs any more.
//
// A request enters in onRequest and leaves when its response is finished. Where the client goes away first,
// its handler may still be writing to the database: it counts until it settles. That is the rare path, and
// the only one that costs more than a few stores on the reply, which Fastify makes for each request anyway.

import type { FastifyReply, FastifyRequest, RouteHandlerMethod } from 'fastify'
import type { Http2ServerRequest } from 'node:http2'
import type { InFlightEntry, RequestInFlight, TaskInFlight } from '../types/index.ts'
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { finished } from 'node:stream'
import { hasBody } from './request-body.ts'

/** Where a reply that counts, or has counted, is found. */
const kPlace = Symbol('graceful.place')
/** What its handler returned, for a promise tells when it settles; null for nothing. */
const kReturned = Symbol('graceful.returned')
/** When its client was gone, or was answered in its handler's place. */
const kOrphaned = Symbol('graceful.orphaned')

/** No more. */
const ENDED = 0
/** Among those under way on the connections. */
const ON_CONNECTION = 1
/** Among those that no connection leads to. */
const ELSEWHERE = 2

/** Fastify does not read what may be sent with them. */
const METHODS_WITHOUT_BODY = new Set<string | undefined>(['GET', 'HEAD', 'TRACE'])

interface Entry extends FastifyReply {
  [kPlace]?: typeof ENDED | typeof ON_CONNECTION | typeof ELSEWHERE
  [kReturned]?: unknown
  [kOrphaned]?: number
}

interface Task {
  name: string
  since: number
}

export class InFlight {
  #count = 0
  readonly #onConnections: () => Iterable<Entry>
  /** Of HTTP/2, injected, and whose clients are gone or have been answered in their handlers' place. */
  readonly #elsewhere = new Set<Entry>()
  readonly #tasks = new Set<Task>()
  #whenIdle: (() => void) | undefined
  /** Requests that left with a finished response. */
  finished = 0

  /** @param onConnections lists the replies under way on open HTTP/1 connections, be they counted or not */
  constructor (onConnections: () => Iterable<FastifyReply>) {
    this.#onConnections = onConnections
  }

  /** Requests in flight. */
  get count (): number {
    return this.#count
  }

  /** Background work in flight. */
  get tasks (): number {
    return this.#tasks.size
  }

  /**
   * Counts a request.
   * @param isOnConnection whether it is among those under way on open HTTP/1 connections
   */
  enter (reply: Entry, isOnConnection: boolean): void {
    reply[kPlace] = ON_CONNECTION
    this.#count++
    if (!isOnConnection) this.#move(reply)
  }

  #move (reply: Entry): void {
    reply[kPlace] = ELSEWHERE
    this.#elsewhere.add(reply)
  }

  /** Counts it no more; false for one that was never counted or has left before. */
  leave (reply: Entry): boolean {
    const place = reply[kPlace]
    if (place === undefined || place === ENDED) return false
    if (place === ELSEWHERE) this.#elsewhere.delete(reply)
    reply[kPlace] = ENDED
    if (--this.#count === 0) this.#settleIdle()
    return true
  }

  /** The response is over: sent to its end, or its client is gone and its handler may still run. */
  responded (reply: Entry, whole: boolean): void {
    if (whole && reply[kOrphaned] === undefined) {
      if (this.leave(reply)) this.finished++
    } else {
      this.orphan(reply)
    }
  }

  /** The client is gone. The request counts until its handler settles; a hijacked one is over. */
  orphan (reply: Entry): void {
    if (reply[kOrphaned] !== undefined) return
    if (reply.sent) {
      this.leave(reply)
      return
    }
    this.#awaitHandler(reply, reply.raw.headersSent || this.#isStreaming(reply) || this.#neverReachesHandler(reply))
    // Of an answer that hooks are at work on, or that is written past Fastify, its response tells.
    const answered = () => { if (this.#handlerPromise(reply) === undefined) this.leave(reply) }
    beforeCall(reply.raw, 'end', answered)
    reply.raw.once('pipe', answered)
  }

  /** The client has been answered in its handler's place. The request counts until the handler settles. */
  abandon (reply: Entry): void {
    this.#awaitHandler(reply, this.#neverReachesHandler(reply))
  }

  /** @param isOver whether nobody answers any more: after raw writes, say, or when Fastify has been given a stream */
  #awaitHandler (reply: Entry, isOver: boolean): void {
    if (reply[kPlace] === undefined || reply[kPlace] === ENDED) return
    reply[kOrphaned] = performance.now()
    this.#move(reply)
    const promise = this.#handlerPromise(reply)
    if (promise !== undefined) {
      this.#leaveAfter(reply, promise)
    } else if (isOver) {
      this.leave(reply)
    } else {
      // Callback style, or still in a hook: over with its answer. Fastify tells nobody of an answer to a
      // client that is gone, so ask this one reply to.
      beforeCall(reply, 'send', () => { this.leave(reply) })
    }
  }

  #leaveAfter (reply: Entry, promise: PromiseLike<unknown> | undefined): void {
    const leave = () => { this.leave(reply) }
    promise?.then(leave, leave)
  }

  /** What tells when the handler settles. `return reply` in callback style does not, though a reply has a `then`, too. */
  #handlerPromise (reply: Entry): PromiseLike<unknown> | undefined {
    const returned = reply[kReturned]
    return returned !== reply && isPromise(returned) ? returned : undefined
  }

  /**
   * Fastify's body parser hears neither 'end' nor 'error' of a body that was lost before it began to read, and on HTTP/2
   * of none that is cut off: it waits for ever.
   */
  #neverReachesHandler (reply: Entry): boolean {
    if (reply[kReturned] !== undefined) return false
    const { raw, body } = reply.request
    if (body !== undefined || METHODS_WITHOUT_BODY.has(raw.method)) return false
    if (raw.httpVersionMajor !== 2) return hasBody(raw) && raw.readableFlowing === null
    return !(raw as unknown as Http2ServerRequest).stream.endAfterHeaders && !(raw.readableDidRead && raw.readableEnded)
  }

  /**
   * Whether Fastify has been given a stream to send, if only to wait for its first byte. It then watches the
   * response with stream.finished(), and nobody but that listens for the 'end' of a response, which is
   * writable and has none. A reply that was returned is watched once for that alone.
   */
  #isStreaming (reply: Entry): boolean {
    return reply.raw.listenerCount('end') > (reply[kReturned] === reply ? listenersOfOneWatcher() : 0)
  }

  /**
   * A route's handler that keeps what it returns, so that an abandoned request's end can be told.
   * Routes registered before the plugin go without; theirs is told by their answer alone.
   */
  observe (handler: RouteHandlerMethod): RouteHandlerMethod {
    const keep = (reply: Entry, returned: unknown) => {
      reply[kReturned] = returned ?? null
      if (reply[kOrphaned] !== undefined) this.#reachedLate(reply)
    }
    return function observed (request: FastifyRequest, reply: FastifyReply) {
      const returned: unknown = handler.call(this, request, reply)
      keep(reply, returned)
      return returned
    }
  }

  /** The client went while a hook before this handler was at work. */
  #reachedLate (reply: Entry): void {
    if (reply[kPlace] !== ENDED) {
      this.#leaveAfter(reply, this.#handlerPromise(reply))
    } else if (!reply.sent) {
      // Its body was cut off, and Fastify has gone on with what there was of it: on HTTP/2, as its session is lost.
      this.enter(reply, false)
      this.#awaitHandler(reply, false)
    }
  }

  /**
   * How long ago the client of a request went whose handler gives no sign when it settles (callback style);
   * undefined for all others.
   */
  unheardFor (reply: Entry): number | undefined {
    if (reply[kOrphaned] === undefined || this.#handlerPromise(reply) !== undefined) return undefined
    return performance.now() - reply[kOrphaned]
  }

  /** Whether nobody is waiting for this request's response any more. */
  isOrphan (reply: Entry): boolean {
    return reply[kOrphaned] !== undefined
  }

  track<T extends PromiseLike<unknown>> (promise: T, name: string): T {
    const task: Task = { name, since: performance.now() }
    const done = () => {
      this.#tasks.delete(task)
      this.#settleIdle()
    }
    this.#tasks.add(task)
    promise.then(done, done)
    return promise
  }

  /** The replies in flight, as they are now: a copy, to go through while requests leave. */
  replies (): FastifyReply[] {
    const replies: Entry[] = [...this.#elsewhere]
    // Not through all the idle connections for nothing.
    if (replies.length === this.#count) return replies
    for (const reply of this.#onConnections()) if (reply[kPlace] === ON_CONNECTION) replies.push(reply)
    return replies
  }

  listTasks (): TaskInFlight[] {
    const now = performance.now()
    return [...this.#tasks].map(({ name, since }) => ({ kind: 'task', name, age: Math.round(now - since) }))
  }

  /** Everybody in flight: requests, oldest first, then background work. */
  list (): InFlightEntry[] {
    return [...this.replies().map(describe).sort((a, b) => b.age - a.age), ...this.listTasks()]
  }

  /** Resolves to true once nobody is in flight, to false when the time is up. */
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
    return this.#count === 0 && this.#tasks.size === 0
  }

  #settleIdle (): void {
    if (this.#whenIdle !== undefined && this.#isIdle()) this.#whenIdle()
  }
}

/** Who a request is, in log and report. */
export function describe (reply: FastifyReply): RequestInFlight {
  const { request } = reply
  return {
    kind: 'request',
    method: request.method,
    route: request.routeOptions.url,
    url: request.url,
    requestId: request.id,
    age: Math.round(reply.elapsedTime)
  }
}

/** From now on, ahead of each call of the method. */
function beforeCall<K extends string> (object: Record<K, (...args: never[]) => unknown>, name: K, callback: () => void): void {
  const { [name]: method } = object
  object[name] = (...args) => {
    callback()
    return method.apply(object, args)
  }
}

function listenersOfOneWatcher (): number {
  const response = new ServerResponse(new IncomingMessage(new Socket()))
  finished(response, () => {})
  return response.listenerCount('end')
}

export function isPromise (value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | undefined)?.then === 'function'
}
