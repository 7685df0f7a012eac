// The requests in flight, from their arrival until nothing of them is running.
//
// Node reports each request as it arrives, before every hook. Only `isOver` decides whether a request is over, by its current
// state; hooks, events, promises and the sweep only trigger the check. So if no hook reports the end, because another plugin's
// hook failed first, the next sweep finds it. A request that has not reached the plugin's hook is also checked whenever the requests in
// flight are read: Fastify answers one with a malformed URL without any hook.

import type { FastifyReply } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import type { RequestInFlight } from '../../types/index.ts'
import type { LongLived } from '../connections/spread.ts'
import { errorMonitor, EventEmitter } from 'node:events'
import { finished } from 'node:stream'
import { beforeCall } from '../before-call.ts'
import { attempt, attemptEach } from '../values.ts'
import { describe } from './describe.ts'
import { Exchange } from './exchange.ts'

/** What is kept of a request once it is held weakly. */
interface Remains {
  ref: WeakRef<Exchange>
  completes: boolean
}

export class InFlight {
  /**
   * In any order: a request that leaves is replaced by the last one. Not a Set: V8 rehashes one that is filled and emptied again and
   * again, and with it, `npm run bench -- --short` misses each of its limits.
   */
  readonly #counted: Exchange[] = []
  /**
   * Those of which only the promise of a handler or the stream that it has sent is left, since a sweep. Held weakly: if nothing can settle
   * the promise or end the stream any more, it is garbage, and so is the exchange, to which only the promise or the stream refers.
   */
  readonly #loose = new Set<WeakRef<Exchange>>()
  readonly #garbage = new FinalizationRegistry<Remains>(remains => { this.#forget(remains) })
  /** Refused, opted out, upgraded, or arrived after the gate shut: the drain does not wait for them. */
  readonly #uncounted = new Set<Exchange>()
  /** Their requests. Kept when they are over, because an onRequestAbort hook may run later. */
  readonly #uncountedRequests = new WeakSet<IncomingMessage>()
  /** The newest request to arrive. Usually its onRequest hook runs before the next one arrives. */
  #newest: Exchange | undefined
  /** The requests before it that hooks registered before the plugin still hold. */
  readonly #held = new Map<IncomingMessage, Exchange>()
  /** The uncounted ones that were over before they reached the plugin's hook. If they reach it later, they must not arrive again. */
  readonly #over = new WeakMap<IncomingMessage, Exchange>()
  readonly #log: unknown
  #isCounting = true
  /** The number of requests that have arrived. */
  arrived = 0
  #whenIdle: (() => void) | undefined
  /** Called when a request that counted is over; set only while draining. */
  onEnd: ((exchange: Exchange, entry: RequestInFlight) => void) | undefined
  /** Called when the connection of a request is gone before it has been answered in full; set only during a shutdown. */
  onGone: ((exchange: Exchange) => void) | undefined
  /** The number of requests answered in full; a shutdown starts at 0. */
  completed = 0

  /** @param log its serializer shows requests that a hook registered before the plugin holds */
  constructor (log: unknown) {
    this.#log = log
  }

  get count (): number {
    this.#checkHeld()
    return this.#size
  }

  get #size (): number {
    return this.#counted.length + this.#loose.size
  }

  /** From now on, new requests do not count, and neither do requests of opted-out routes that a hook still holds. */
  stopCounting (): void {
    this.#isCounting = false
    for (const exchange of this.unfinished) if (exchange.hasOptedOut) this.optOut(exchange)
  }

  arrive (request: IncomingMessage, response: ServerResponse): Exchange {
    const exchange = new Exchange(this, request, response, this.arrived++)
    if (this.#isCounting) this.#add(exchange)
    else this.#uncount(exchange)
    const before = this.#newest
    if (before !== undefined && before.reply === undefined) this.#hold(before)
    this.#newest = exchange
    if (this.#whenIdle !== undefined) this.#checkOnClose(exchange)
    return exchange
  }

  /** It has not reached the plugin's hook when the next request arrives. */
  #hold (exchange: Exchange): void {
    this.#held.set(exchange.request, exchange)
    this.#checkOnClose(exchange)
    this.check(exchange)
  }

  #checkOnClose (exchange: Exchange): void {
    exchange.onClose(() => { this.check(exchange) })
  }

  /** Checks the requests that have not reached the plugin's hook. */
  #checkHeld (): void {
    const newest = this.#newest
    if (newest !== undefined && newest.reply === undefined) this.check(newest)
    for (const exchange of this.#held.values()) this.check(exchange)
  }

  #add (exchange: Exchange): void {
    exchange.index = this.#counted.push(exchange) - 1
  }

  #delete (exchange: Exchange): boolean {
    const { index, ref } = exchange
    if (ref !== undefined) {
      exchange.ref = undefined
      this.#garbage.unregister(exchange)
      return this.#loose.delete(ref)
    }
    if (index < 0) return false
    const last = this.#counted.pop() as Exchange
    if (last !== exchange) {
      this.#counted[index] = last
      last.index = index
    }
    exchange.index = -1
    return true
  }

  /**
   * A request has reached the plugin's onRequest hook: finds its exchange. Undefined if its arrival was not reported, or if it passes
   * through `fastify.routing` again; then `find()` may know it. Recognized by the request of its response, because a server factory may
   * pass proxies of both.
   */
  attach (reply: FastifyReply): Exchange | undefined {
    const { req } = reply.raw
    const exchange = this.#newest?.request === req ? this.#newest : this.#release(req)
    exchange?.attach(reply)
    return exchange
  }

  #release (request: IncomingMessage): Exchange | undefined {
    const held = this.#held.get(request)
    this.#held.delete(request)
    return held ?? this.#over.get(request)
  }

  /** The exchange of a response, if it is not over. Searches all of them. */
  find ({ req }: ServerResponse): Exchange | undefined {
    return this.unfinished.find(exchange => exchange.request === req)
  }

  /** A copy of the list of requests in flight, in the order of arrival. */
  get exchanges (): Exchange[] {
    this.#checkHeld()
    return this.#counting.toSorted((a, b) => a.number - b.number)
  }

  get #counting (): Exchange[] {
    return [...this.#counted, ...[...this.#loose].map(ref => ref.deref()).filter(exchange => exchange !== undefined)]
  }

  /** The requests that are not over, whether they count or not, in any order. */
  get unfinished (): Exchange[] {
    return [...this.#counting, ...this.#uncounted]
  }

  /** The requests that do not count and are not over. */
  get uncounted (): Exchange[] {
    return [...this.#uncounted]
  }

  /** The requests in flight, oldest first. */
  list (): RequestInFlight[] {
    return this.exchanges.map(exchange => this.describe(exchange))
  }

  /** What log and report show of a request. */
  describe (exchange: Exchange): RequestInFlight {
    return describe(exchange, this.#log)
  }

  /** Whether a request counts: it arrived before the gate shut, is not over, has not opted out, and is not upgraded. */
  counts (exchange: Exchange): boolean {
    return exchange.index >= 0 || exchange.ref !== undefined
  }

  /** This request no longer counts: its route has opted out, or another protocol has taken its connection. */
  optOut (exchange: Exchange): void {
    if (!this.#delete(exchange)) return
    this.#uncount(exchange)
    this.#settleIdle()
  }

  #uncount (exchange: Exchange): void {
    this.#uncounted.add(exchange)
    this.#uncountedRequests.add(exchange.request)
  }

  /** Whether the drain does not wait for this request, which may be over, nor for its hooks. */
  isUncounted (request: IncomingMessage): boolean {
    return this.#uncountedRequests.has(request)
  }

  /** An upgrade is requested. It counts until another protocol takes the connection; no other code reports that. */
  arriveUpgrade (exchange: Exchange, reply: FastifyReply): void {
    exchange.isUpgrade = true
    beforeCall(reply, 'hijack', () => { this.optOut(exchange) })
  }

  /** Called by onResponse: the response has been sent, or has failed. */
  responded (exchange: Exchange): void {
    if (exchange.wire === 'open' && exchange.isEnded && !exchange.isGone) this.#finish(exchange)
    this.check(exchange)
  }

  /** The connection or stream has closed. */
  closed (exchange: Exchange): void {
    this.check(exchange)
    // A handler may still read the request after its answer.
    if (exchange.wire === 'orphaned' || exchange.runningHandlers > 0) exchange.tellClosed()
  }

  /** Checks the state of a request, and removes it if it is over. */
  check (exchange: Exchange): void {
    if (exchange.wire === 'open') {
      if (exchange.isFinished) {
        this.#finish(exchange)
      } else if (exchange.isGone) {
        this.onGone?.(exchange)
        this.orphan(exchange)
        this.awaitAnswer(exchange)
      }
    }
    // Nothing waits for the handler of a request that does not count.
    if ((exchange.wire !== 'open' && !this.counts(exchange)) || isOver(exchange)) this.leave(exchange)
  }

  /** Checks it after what Fastify or Node does next in the same turn, such as calling the next hook or the error handler. */
  checkSoon (exchange: Exchange): void {
    queueMicrotask(() => { this.check(exchange) })
  }

  /** Checks every request that is not over. */
  checkAll (): void {
    attemptEach(this.unfinished, exchange => {
      if (exchange.startedAt === 0) exchange.keepAge()
      if (exchange.wire !== 'open') {
        exchange.call?.observeIfDropped()
        exchange.destroyClosed()
      }
      this.check(exchange)
      const { wire, index, runningHandlers, source } = exchange
      if (wire !== 'open' && index >= 0 && (runningHandlers > 0 || source !== undefined)) this.#loosen(exchange)
    })
  }

  #loosen (exchange: Exchange): void {
    this.#delete(exchange)
    if (this.#newest === exchange) this.#newest = undefined
    const ref = new WeakRef(exchange)
    exchange.ref = ref
    this.#loose.add(ref)
    this.#garbage.register(exchange, { ref, completes: isCompleted(exchange) }, exchange)
  }

  /** No code is left that could settle the promise of its handler, or end its stream. */
  #forget ({ ref, completes }: Remains): void {
    this.#loose.delete(ref)
    if (completes) this.completed++
    this.#settleIdle()
  }

  /** What ends each response that has begun, of routes that ask for it. Fastify reads the stream of a HEAD request after its answer. */
  longLived (): LongLived[] {
    return this.exchanges
      .filter(({ options, request, isEnded, hasBegun, isSourceActive }) =>
        options.onShutdown === 'end' && hasBegun && (!isEnded || (request.method === 'HEAD' && isSourceActive)))
      .map(exchange => [exchange, () => { exchange.end() }])
  }

  #finish (exchange: Exchange): void {
    if (exchange.runningHandlers > 0 || exchange.source !== undefined) exchange.keepAge()
    exchange.wire = 'finished'
    exchange.previous = undefined
  }

  /** No client waits for the handler any more: the client has disconnected, or has been answered in the handler's place. */
  orphan (exchange: Exchange): void {
    exchange.keepAge()
    exchange.wire = 'orphaned'
    // A hijacked reply is over when its connection closes.
    if (exchange.isDropped || exchange.isCommitted || exchange.reply?.sent === true) {
      exchange.hasAnswered = true
      exchange.isSending = false
    }
  }

  /** `reply.send()` is called. Fastify may run hooks before it writes the answer, even if the client has disconnected. */
  sending (exchange: Exchange, payload: unknown): void {
    // Fastify sends nothing: the request has been answered, perhaps in the handler's place, or hijacked.
    if (exchange.wire !== 'open' && exchange.reply?.sent === true) {
      this.#written(exchange)
      return
    }
    // Its body is lost, and Fastify answers with the error.
    this.reenter(exchange)
    // Fastify sends again after a failure, with the error. If its last error handler fails, too, it destroys the response with the error;
    // the plugin destroys it without one.
    if (exchange.isSending) beforeCall(exchange.response, 'destroy', error => { if (error !== undefined) this.#written(exchange) })
    exchange.isSending = exchange.hasAnswered = true
    if (isStream(payload)) attempt(() => { this.#observeSource(exchange, payload) })
  }

  /** It may end after the response: one that answers HEAD is still read, and a query has to close its cursor. */
  #observeSource (exchange: Exchange, source: Readable): void {
    exchange.source = source
    // After Node has destroyed a stream that has ended.
    const check = () => { this.checkSoon(exchange) }
    // Node destroys a stream that fails, but not if other code emits the event.
    const failed = () => {
      if (attempt(() => source.destroyed) !== true) exchange.source = undefined
      check()
    }
    source.once('end', check)
    source.once('close', check)
    source.once(errorMonitor, failed)
  }

  /** `reply.callNotFound()` is called. Fastify calls no handler if the request has been answered in the handler's place. */
  notFound (exchange: Exchange): void {
    exchange.keepConfig()
    if (exchange.hasOptedOut) this.optOut(exchange)
    if (exchange.wire === 'orphaned' && exchange.isEnded) this.#answered(exchange)
  }

  /** Fastify does not report an answer that no client waits for, so the methods of this reply and its response are wrapped. */
  awaitAnswer (exchange: Exchange): void {
    const { reply, request, response } = exchange
    if (exchange.isReplyWrapped) return
    exchange.isReplyWrapped = reply !== undefined
    const answered = () => { this.#answered(exchange) }
    const written = () => { this.#written(exchange) }
    if (reply !== undefined) {
      // After its handler has returned, @fastify/reply-from sets the status, and then sends nothing if the client has disconnected.
      const statusSet = () => { if (exchange.call?.state === 'returned' && exchange.runningHandlers === 0) answered() }
      for (const name of ['code', 'status'] as const) beforeCall(reply, name, statusSet)
    }
    beforeCall(response, 'end', written)
    // Fastify does not end a large HTTP/2 response if its stream is closed.
    beforeCall(response, 'writeHead', () => { if (exchange.isSending) written() })
    // Fastify starts to read the body after the hooks.
    beforeCall(request, 'on', event => {
      if (event !== 'data' || !exchange.isTooLateToRead) return
      exchange.isBodyLost = true
      this.checkSoon(exchange)
    })
    // Fastify listens for errors of the response as it starts to send a stream. It pipes a Node stream in the same turn, but reads a web
    // stream.
    let isPiped = false
    beforeCall(response, 'on', event => {
      if (event === 'error' && exchange.isSending) queueMicrotask(() => { if (!isPiped) written() })
    })
    // If it was answered before its handler was called, Fastify reads `reply.sent` when a hook or the body parser ends, and stops. So that
    // read is the end.
    if (reply !== undefined && exchange.call === undefined && exchange.isEnded) {
      const get = () => {
        answered()
        return true
      }
      Reflect.defineProperty(reply, 'sent', { get, configurable: true })
    }
    // A stream that waits for its first byte is also an answer. If it is already piped, it is unpiped when the response closes. If the
    // whole request has been read, Fastify then answers with the error of the stream, if it ends with one.
    const piped = (stream: Readable) => {
      isPiped = true
      if (request.aborted || exchange.hasBegun) written()
      else finished(stream, { writable: false }, error => { if (!error) written() })
    }
    response.once('pipe', piped).once('unpipe', piped)
  }

  /** The answer has been given. Hooks that process it begin in the same turn. */
  #answered (exchange: Exchange): void {
    exchange.hasAnswered = true
    this.checkSoon(exchange)
  }

  /** The hooks that process the answer have ended. */
  #written (exchange: Exchange): void {
    exchange.isSending = false
    this.#answered(exchange)
  }

  /** Stops counting and tracking a request. */
  leave (exchange: Exchange): void {
    const isCounted = this.#delete(exchange)
    if (!isCounted && !this.#uncounted.delete(exchange)) return
    const { reply, request } = exchange
    if (this.#newest === exchange) this.#newest = undefined
    if (reply === undefined) this.#held.delete(request)
    if (!isCounted) {
      if (reply === undefined) this.#over.set(request, exchange)
      return
    }
    if (isCompleted(exchange)) this.completed++
    exchange.hasEnded = true
    this.onEnd?.(exchange, this.describe(exchange))
    this.#settleIdle()
  }

  /** Counts a request again if it was over, because Fastify calls another handler or a hook. */
  reenter (exchange: Exchange): void {
    if (exchange.hasEnded && !this.counts(exchange)) this.#add(exchange)
  }

  /** Resolves once no request is in flight. */
  async idle (): Promise<void> {
    if (this.count === 0) return
    // Perhaps no hook will report its end.
    if (this.#newest !== undefined) this.#checkOnClose(this.#newest)
    await new Promise<void>(resolve => { this.#whenIdle = resolve })
  }

  #settleIdle (): void {
    if (this.#whenIdle !== undefined && this.#size === 0) this.#whenIdle()
  }
}

/**
 * Whether it emits Node's events, and Fastify destroys it. Of any other object, nothing is read: it may have getters, or be a proxy. For
 * each request: no `attempt()`.
 */
function isStream (payload: unknown): payload is Readable {
  try {
    if (!(payload instanceof EventEmitter)) return false
    const { pipe, destroy } = payload as Partial<Readable>
    return typeof pipe === 'function' && typeof destroy === 'function'
  } catch {
    return false
  }
}

/** Whether a request that ends has been answered in full; once, although a hook of it may run later. */
function isCompleted ({ wire, hasEnded }: Exchange): boolean {
  return wire === 'finished' && !hasEnded
}

/** Whether a request is over: no client waits for it, and its handler is done. */
function isOver (exchange: Exchange): boolean {
  const { wire, isAtWork, call, hasAnswered, isSending, isSourceActive } = exchange
  if (wire === 'open' || isAtWork || isSourceActive) return false
  if (wire === 'finished') return true
  // A handler that returned no promise may still work for a client that has disconnected: its answer shows the end.
  return !isSending && (call?.state === 'settled' || hasAnswered || (call === undefined && exchange.isBodyLost))
}
