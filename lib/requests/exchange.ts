// A request and its response. Only this file knows how HTTP/1 and HTTP/2 requests differ; others ask for properties such as isStream.
//
// in-flight.ts decides when a request is over. The fields that it reads, and the files that change them:
//   wire                            the state of the response: only in-flight.ts
//   call                            the newest call of a handler: handler-call.ts; that it awaits the reply: handlers.ts
//   runningHandlers                 handlers and late hooks: handler-call.ts, late-hooks.ts
//   hasAnswered, isSending          the answer, and the hooks that process it: handler-call.ts, in-flight.ts
//   isBodyLost, source              only in-flight.ts

import type { FastifyReply } from 'fastify'
import type { IncomingMessage, OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Http2ServerRequest, Http2Session, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { Duplex, Readable } from 'node:stream'
import type { Connection, Transport } from '../connections/connection.ts'
import type { HandlerCall } from './handler-call.ts'
import type { InFlight } from './in-flight.ts'
import { constants } from 'node:http2'
import { beforeCall, replaceMethod, trySet } from '../before-call.ts'
import { now, setImmediate, setLateInterval, setTimeout } from '../clock.ts'
import { routeOptionsOf, type RouteOptions } from '../options.ts'
import { HTTP2_END_CHECK, checkIntervalOf, OWN_TIMER, READ_PART } from '../times.ts'
import { attempt } from '../values.ts'
import { closeByHeader, isHeadSent } from './last-response.ts'

/**
 * - `open`: the client waits for its answer.
 * - `finished`: the handler's whole answer has been sent to the client.
 * - `orphaned`: no client waits for the handler: the client has disconnected, or was answered in the handler's place.
 */
type Wire = 'open' | 'finished' | 'orphaned'

const EVENT_STREAM = 'text/event-stream'

/** The headers of every answer that the plugin gives itself. */
export const JSON_HEADERS = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' }

export const kExchange = Symbol('graceful.exchange')

/** The HTTP/2 sessions for which `closeSession()` has called `goaway()`. */
const closingSessions = new WeakSet<Http2Session>()

/** HTTP/2 streams have it once `setTimeout()` has been called. Node's types lack it. */
interface Timed {
  timeout?: number
}

/** Of ServerResponse and Http2ServerResponse. */
interface Methods extends Pick<ServerResponse, 'getHeaderNames' | 'removeHeader' | 'writeHead'> {
  end: (body?: string) => unknown
}

/** When a stream that has been given to `reply.send()` was last read, on the clock of now(). */
const readTimes = new WeakMap<Readable, number>()

/** A reply that has reached the plugin's onRequest hook. */
interface Attached {
  [kExchange]?: Exchange
}

export class Exchange {
  /** The requests in flight of the instance that serves it. */
  readonly owner: InFlight
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /** HTTP/1 only. Kept, because `request.socket` may become null: undici does that to a request it sends as a body. */
  readonly socket: Transport | undefined
  /** HTTP/2 only. */
  readonly #stream: ServerHttp2Stream & Timed | undefined
  /** Set when the plugin's onRequest hook runs; hooks that were registered before the plugin run earlier. */
  reply: FastifyReply | undefined = undefined
  /** HTTP/1 only, if one of our listeners accepted it. */
  connection: Connection | undefined = undefined
  /** The request before this one on an HTTP/1 connection, if that was unfinished on arrival. */
  previous: Exchange | undefined = undefined
  wire: Wire = 'open'
  /** How many handlers and late hooks are running, or have a pending promise. */
  runningHandlers = 0
  /** The newest call of its handlers. None while hooks are running, if no route matched, or if the route was added before the plugin. */
  call: HandlerCall | undefined = undefined
  /** Whether it counted and has been over. Fastify may still call another handler, such as the error handler, or a hook. */
  hasEnded = false
  /** Whether it asks for another protocol. It counts until its reply is hijacked. */
  isUpgrade = false
  /** Whether no answer can follow: its HTTP/2 stream has been refused, or the response before it is the last one on its connection. */
  isUnanswerable = false
  /** Once no client waits for the handler: whether the body parser waits for what will not come, perhaps forever. */
  isBodyLost = false
  /** Whether the handler has given its answer; used if it is orphaned and returned no promise. */
  hasAnswered = false
  /** Whether `reply.send()` has been called, so that Fastify may still run hooks. Reset when that is written, if no client waits for it. */
  isSending = false
  /** The stream that has been given to `reply.send()`. */
  source: Readable | undefined = undefined
  /** Whether the methods of its reply are wrapped, because no client waits for it. */
  isReplyWrapped = false
  /** When it started, on the clock of now(); 0 while `reply.elapsedTime` is used. */
  startedAt = 0
  /** Since when sweeps find no sign of the handler after the client disconnected, on the clock of now(); 0 if it shows one. */
  silentSince = 0
  /** How many bytes of it had arrived at the last sweep. HTTP/1: it may include bytes of earlier requests on the connection. */
  received = 0
  /** What its route has set for itself, if Fastify may have replaced the route. */
  #keptConfig: unknown = undefined
  /** Whether what arrives is counted by a listener; HTTP/2 only. */
  #countsBytes = false
  /** Whether `endConnection()` is in effect. HTTP/1 only. */
  #saysClose = false
  /** Whether a timer watches the progress of the response. */
  isWatched = false
  /** Sets the timer again if a handler has turned it off. */
  #rearm: (() => void) | undefined = undefined

  /** The order of arrival. */
  readonly number: number
  /** Its place among the requests that count, -1 if it does not; only in-flight.ts uses it. */
  index = -1
  /** How in-flight.ts holds it, if that is weakly. */
  ref: WeakRef<Exchange> | undefined = undefined

  /** What the socket had sent at the last sweep, and when that changed. Without a socket, `#sentAt` is when the handler last wrote. */
  #sent = -1
  #sentAt = 0

  constructor (owner: InFlight, request: IncomingMessage, response: ServerResponse, number: number) {
    this.owner = owner
    this.number = number
    this.request = request
    this.response = response
    const isHttp2 = isHttp2Request(request)
    this.socket = isHttp2 ? undefined : request.socket
    this.#stream = isHttp2 ? (request as unknown as Http2ServerRequest).stream : undefined
  }

  /** The exchange of a reply, if that has reached the plugin's onRequest hook. */
  static of (reply: FastifyReply | undefined): Exchange | undefined {
    return (reply as Attached | undefined)?.[kExchange]
  }

  /** It has reached the plugin's onRequest hook. */
  attach (reply: FastifyReply): void {
    this.reply = reply
    ;(reply as Attached)[kExchange] = this
  }

  /**
   * Whether the kernel has the whole response. Node also emits 'finish' for a response that was cut off. A hijacked one may have been
   * sent by the methods of its HTTP/2 stream; then only its close shows that a file has been sent.
   */
  get isFinished (): boolean {
    const { response, socket } = this
    const stream = this.#stream
    try {
      if (stream !== undefined) {
        const isEnded = response.writableEnded || (stream.closed && !stream.aborted)
        return isEnded && stream.writableFinished && !stream.rstCode
      }
      return response.writableFinished && (socket?.destroyed !== true || socket.writableFinished)
    } catch {
      return false
    }
  }

  /**
   * Whether the connection or stream is gone. 'close' is not enough: Node 20 and 22 lose some streams of a session that closes
   * under load, and never emit it. An injected request has no connection; its response is destroyed. If reading one of these
   * objects throws, because other code has changed it, the request counts as gone.
   */
  get isGone (): boolean {
    const { response, socket } = this
    const stream = this.#stream
    try {
      if (stream !== undefined) return stream.closed || stream.destroyed
      return socket?.destroyed === true || (response.destroyed && !response.writableFinished)
    } catch {
      return true
    }
  }

  /** Whether the response is complete, so that nothing can be added. */
  get isEnded (): boolean {
    try {
      return this.response.writableEnded
    } catch {
      return true
    }
  }

  /**
   * HTTP/1, once its connection is closed: whether its handler has destroyed the response, or a request that it has not read to the end.
   * Read it before Node destroys them. On a server of the application's own, that is too late: Node has destroyed the request, with
   * ECONNRESET, and the response, unless that is queued (Node 20 and 22).
   */
  get isDestroyedByHandler (): boolean {
    const { connection, request, response } = this
    return attempt(() => {
      const { code }: NodeJS.ErrnoException = request.errored ?? {} as Error
      const isByNode = connection === undefined && code === 'ECONNRESET'
      return response.destroyed || (request.destroyed && !request.readableEnded && !isByNode)
    }) === true
  }

  /**
   * HTTP/1, once its connection is closed: whether a hook or handler has destroyed the response as its answer. Once the client has left,
   * even if it has only half-closed the connection, other code may destroy the response because of that. To be asked as the one above.
   */
  get isDropped (): boolean {
    const { request, response, socket, connection } = this
    return attempt(() => {
      const hasFailed = socket?.errored != null && socket.errored !== response.errored
      // If the client of an injected request leaves, that is destroyed.
      const hasLeft = connection === undefined ? request.destroyed : socket?.readableEnded === true || hasFailed
      return response.destroyed && !hasLeft
    }) === true
  }

  /** Whether it is a stream of this HTTP/2 session. False once the stream or the session is destroyed. */
  isOf (session: Http2Session): boolean {
    return this.#stream?.session === session
  }

  /** Whether the socket below its HTTP/2 session is destroyed. Unreadable once the session is destroyed. */
  get isSocketDestroyed (): boolean {
    return attempt(() => this.#stream?.session?.socket.destroyed) === true
  }

  get #hasBody (): boolean {
    if (this.#stream !== undefined) return !this.#stream.endAfterHeaders
    const { request } = this
    return attempt(() => request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0) === true
  }

  /** Whether part of the body has not arrived yet. */
  get isReceiving (): boolean {
    if (!this.#hasBody) return false
    const stream = this.#stream
    if (stream !== undefined) return !this.isGone && attempt(() => stream.state.remoteClose !== 1) === true
    return attempt(() => {
      const { complete, destroyed } = this.request as Partial<IncomingMessage>
      // An injected request has no `complete`, because nothing of it is still to come.
      return complete === false && destroyed !== true
    }) === true
  }

  /** Whether closing the connection now would reset it. An HTTP/2 session that closes lets its streams end. */
  get needsConnection (): boolean {
    return this.#stream === undefined && this.isReceiving
  }

  /** Once its client has disconnected: whether code that starts to read now gets no body, not even its end. */
  get isTooLateToRead (): boolean {
    return this.#hasBody && (this.#stream?.closed !== true || this.request.readableEnded)
  }

  /** HTTP/2: whether Node emits no 'close' on the response if its stream closes before the response has been ended. */
  get mayLackClose (): boolean {
    return this.#stream !== undefined && this.request.method === 'HEAD'
  }

  /** Whether it is an HTTP/2 stream. */
  get isStream (): boolean {
    return this.#stream !== undefined
  }

  /** HTTP/2: whether GOAWAY has been queued or sent on its session. If that is so on arrival, GOAWAY does not include this stream. */
  get isSessionClosing (): boolean {
    const session = this.#stream?.session
    return session !== undefined && closingSessions.has(session)
  }

  /** Refuses its HTTP/2 stream; not while Node dispatches it, see `closeSession()`. */
  refuseStream (): void {
    setImmediate(() => { this.#stream?.close(constants.NGHTTP2_REFUSED_STREAM) })
  }

  /**
   * Whether the handler need not make progress: it waits for the rest of the body, or the response is an event stream that the client
   * has read up to now.
   */
  get isPausing (): boolean {
    const { request, response } = this
    const stream = this.#stream
    if (this.isReceiving) return request.readableLength + (stream?.readableLength ?? 0) === 0
    // Fastify sends the head with the first event. Before that, the handler must have returned.
    if (!this.hasBegun && (this.#type === undefined || (this.runningHandlers > 0 && this.call?.isReplyAwaited !== true))) return false
    return this.#isEventStream && (stream ?? response).writableLength === 0
  }

  get #type (): OutgoingHttpHeader | undefined {
    return attempt(() => this.response.getHeader('content-type') ?? this.reply?.getHeader('content-type'))
  }

  /** What a handler writes without Fastify may be one, whatever its type. If it has sent the head itself, Node does not show the type. */
  get #isEventStream (): boolean {
    const type = this.isHijacked ? EVENT_STREAM : this.#type ?? this.request.headers.accept
    return String(type).toLowerCase().includes(EVENT_STREAM)
  }

  /** Whether the user's code limits the time: its own timer on the response, or Fastify's `handlerTimeout` until it has begun. */
  get isTimedByUser (): boolean {
    if (Number((this.#stream ?? this.socket)?.timeout) > 0) return true
    return !this.hasBegun && Number(attempt(() => this.reply?.routeOptions.handlerTimeout)) > 0
  }

  /** Whether no body arrives and no head has been sent: only the handler can make progress. HTTP/1 only. */
  get isStill (): boolean {
    return this.#stream === undefined && !this.hasBegun && !this.#hasBody
  }

  /**
   * Notes, from now on, when its stream is read, unless something still waits to be sent. If an onSend hook compresses the stream, it may
   * take long until there is something to send. Not with a listener: with one, a stream that is piped flows on when its destination
   * closes, and one that is read in paused mode loses data.
   */
  noteReads (): void {
    const { source, response } = this
    if (source === undefined || readTimes.has(source)) return
    readTimes.set(source, -Infinity)
    beforeCall(source, 'emit', event => {
      if (event === 'data' && (this.#stream ?? response).writableLength === 0) readTimes.set(source, now())
    })
  }

  get #readAt (): number {
    return (this.source && readTimes.get(this.source)) ?? -Infinity
  }

  /** When its handler was last seen to make progress. */
  get #progressAt (): number {
    return Math.max(this.#sentAt, this.#readAt)
  }

  /** While it is still: since when, as far as sweeps have seen. It arrived then, has sent a 1xx response, or its stream was read. */
  get stillSince (): number {
    const sent = Number(this.socket?.bytesWritten)
    if (sent !== this.#sent && this.#sent >= 0) this.#sentAt = now()
    this.#sent = sent
    return Math.max(this.startedAt, this.#progressAt)
  }

  /** What the route has set for itself. Not kept, because that would cost each request. */
  get options (): RouteOptions {
    return routeOptionsOf(this.#config)
  }

  get hasOptedOut (): boolean {
    return this.#config === false
  }

  get #config (): unknown {
    return this.#keptConfig ?? attempt(() => this.reply?.routeOptions.config.gracefulShutdown)
  }

  /** Keeps what its route has set: for a not-found handler, Fastify replaces the route. */
  keepConfig (): void {
    this.#keptConfig = this.#config
  }

  /** Whether nothing of the response is sent before the previous one is complete. */
  get isQueued (): boolean {
    return this.previous !== undefined && !this.previous.isFinished
  }

  /** Whether the response is complete, and Node has still to send it. */
  get isReady (): boolean {
    return this.isEnded && !this.isFinished && !this.isGone
  }

  /** Whether the response is complete and waits for the previous one. */
  get isWaitingForTurn (): boolean {
    return this.isEnded && this.isQueued
  }

  /** Whether the head of the response has been sent. */
  get hasBegun (): boolean {
    try {
      return this.#stream === undefined ? isHeadSent(this.response) : this.#stream.headersSent
    } catch {
      return true
    }
  }

  /** Whether it is too late for another answer: the response has begun, or the connection speaks another protocol. */
  get isCommitted (): boolean {
    return this.hasBegun || this.isEnded || (this.isUpgrade && this.isHijacked)
  }

  /** Whether the handler writes the response itself, without Fastify. */
  get isHijacked (): boolean {
    return !this.isEnded && this.reply?.sent === true
  }

  /** Whether promises of its handlers and late hooks count. With `waitFor: 'response'`, they may never settle. */
  get arePromisesAwaited (): boolean {
    return this.options.waitFor !== 'response'
  }

  /** Whether the stream that has been given to `reply.send()` is being read, or has still to close. */
  get isSourceActive (): boolean {
    return this.source !== undefined && isActive(this.source) && this.arePromisesAwaited && !this.#isSourceLost
  }

  /**
   * Whether nothing reads its stream any more, or closes it. Fastify pipes a stream that answers HEAD to the response, if the route is not
   * one that it has added itself.
   */
  get #isSourceLost (): boolean {
    return this.mayLackClose && this.#stream?.closed === true && !this.isEnded
  }

  /** Whether a promise tells that a handler is at work. */
  get isAtWork (): boolean {
    return this.runningHandlers > 0 && this.arePromisesAwaited
  }

  /** Age in milliseconds; counted from the first sweep while a hook registered before the plugin holds it. */
  get age (): number {
    if (this.startedAt > 0) return now() - this.startedAt
    return this.reply?.elapsedTime ?? 0
  }

  /** Keeps the age, because reply.elapsedTime stops when the response ends. */
  keepAge (): void {
    this.startedAt = now() - this.age
  }

  /**
   * HTTP/2: notes how much of the body has arrived. Node does not show it. What has arrived before the first sweep is taken from
   * the flow-control window, as far as that has not been opened again; then a listener counts. A listener for each request would
   * cost too much, and would make a stream flow that nothing reads yet.
   */
  noteReceived (): void {
    const stream = this.#stream as ServerHttp2Stream
    if (this.#countsBytes) return
    const { session, state, readableFlowing } = stream
    this.received = Number(session?.localSettings.initialWindowSize) - Number(state.localWindowSize)
    if (readableFlowing === null) return
    this.#countsBytes = true
    stream.on('data', (chunk: Buffer) => { this.received += chunk.length })
  }

  /**
   * HTTP/2: Node 20 and 22 never destroy a stream that the client has reset without an error, if writes were waiting for its window. Then
   * no 'close' is emitted, and what answers and reads wait forever: a reply that is awaited, a stream that is sent.
   */
  destroyClosed (): void {
    const stream = this.#stream
    if (stream?.closed === true && stream.readableEnded) stream.destroy()
  }

  /** Calls back once, when the HTTP/2 stream or the HTTP/1 response closes; before other code reacts. */
  onClose (callback: () => void): void {
    (this.#stream ?? this.response).prependOnceListener('close', callback)
  }

  /**
   * Its connection is gone. Node 20 and 22 emit no 'close' on a response that is still queued, and no version does on a request
   * that was answered before all of it was received: a handler that reads it would wait forever.
   */
  tellClosed (): void {
    const { connection, request, response } = this
    if (connection === undefined) return
    // Two ticks later, because Node closes the others in the next one.
    process.nextTick(process.nextTick, () => {
      if (!response.closed) response.destroy().emit('close')
      // As Node does if the client disconnects before the answer. A body parser ends with the error.
      if (!request.complete) request.destroy(abortedError())
    })
  }

  /** Closes the connection, or resets the stream. */
  abort (): void {
    const stream = this.#stream
    if (stream !== undefined) {
      const { isReceiving } = this
      // Not close(), which also ends the response: its end may be sent before the reset.
      stream.destroy(abortedError())
      // Only now: Fastify destroys the stream, without an error, if it sends the body back.
      if (isReceiving) this.#tellBodyCut(stream)
      return
    }
    this.response.destroy()
    // A queued response has no reference to its socket; an injected request has none, or only a mock.
    ;(this.socket as Partial<Transport> | undefined)?.destroy?.()
  }

  /** Otherwise, code that reads the body of an HTTP/2 request takes its end for that of the whole body. */
  #tellBodyCut (stream: ServerHttp2Stream): void {
    stream.emit('aborted')
    this.request.on('error', () => {}).emit('error', abortedError())
  }

  /**
   * Fastify's `request.signal` aborts when the connection closes, but only until a response has been sent. This response is not the
   * handler's.
   */
  keepSignal (): void {
    const { request, response } = this
    response.prependOnceListener('finish', () => {
      const { removeListener } = request
      const restore = replaceMethod(request, 'removeListener', (...args: Parameters<typeof removeListener>) =>
        args[0] === 'close' ? request : removeListener.apply(request, args))
      queueMicrotask(restore)
    })
  }

  /** Makes this response the last one on its connection, unless its head has been sent. */
  endConnection (): void {
    if (this.#stream !== undefined) {
      closeSession(this.#stream.session)
      return
    }
    // Once: each cut of a pipeline ends its newest response.
    if (this.hasBegun || this.#saysClose) return
    this.#saysClose = true
    // The header is written with the others; with setHeader(), Node would merge all of them one by one.
    trySet(this.response, 'shouldKeepAlive', false)
    closeByHeader(this.response)
    if (this.isReceiving) this.connection?.linger()
  }

  /** Whether its head says that it is the last response on its connection. HTTP/1 only. */
  get isLast (): boolean {
    return !this.response.shouldKeepAlive && this.hasBegun
  }

  /** Reverts `endConnection`, because another request follows on the connection. */
  keepConnection (): void {
    if (this.hasBegun) return
    this.#saysClose = false
    trySet(this.response, 'shouldKeepAlive', true)
  }

  /**
   * Sends a whole response in the handler's place. Not with `reply.send()`: it throws while onError hooks run, and runs onSend
   * hooks, which may already be running, or may fail without the onRequest hooks before them. Later writes by Fastify or the
   * handler are ignored.
   * @param body JSON
   * @param own headers besides those of a cross-origin answer, which are kept
   */
  answer (status: number, body: string, own: Record<string, unknown> = {}): void {
    const stream = this.#stream
    if (this.isReceiving) {
      this.connection?.linger()
      // RFC 9113, section 8.1: the client need not send the rest, and keeps the response.
      stream?.once('finish', () => {
        this.#tellBodyCut(stream)
        closeOnceEnded(stream)
      })
    }
    // Node has detached the socket of an upgrade, and the plugin that took it may not have seen the request.
    if (this.isUpgrade) {
      trySet(this.response, 'shouldKeepAlive', false)
      this.response.once('finish', () => { (this.socket as Partial<Transport> | undefined)?.end?.() })
    }
    try {
      this.#send(status, body, own)
    } catch {
      // A method of a class of the application's own throws.
      this.abort()
    }
    seal(this.response)
  }

  #send (status: number, body: string, own: Record<string, unknown>): void {
    const { response, reply } = this
    const headers: Record<string, unknown> = {
      ...pick(reply?.getHeaders() ?? response.getHeaders()), ...own, ...JSON_HEADERS, 'content-length': Buffer.byteLength(body)
    }
    // Not the methods with which middleware replaces those of the response: sessions and compression end it later, or not at all.
    const { getHeaderNames, removeHeader, writeHead, end } = Object.getPrototypeOf(response) as Methods
    // Headers that describe the handler's answer, such as its encoding, do not apply to this one. Once `connection` has been removed,
    // Node writes none.
    for (const name of getHeaderNames.call(response)) if (name !== 'connection') removeHeader.call(response, name)
    if (this.#stream === undefined) {
      response.statusMessage = ''
      if (!response.shouldKeepAlive) headers.connection = 'close'
    }
    writeHead.call(response, status, headers as OutgoingHttpHeaders)
    // With its option rejectNonStandardBodyWrites, Node throws an error for the body of a response to HEAD.
    end.call(response, this.request.method === 'HEAD' ? undefined : body)
  }

  /**
   * Ends a response that has begun, in its handler's place; not one with a `content-length`, because that would truncate it. Later writes
   * by Fastify or the handler are ignored. If HEAD has been answered, it destroys the stream that is still read.
   */
  end (): void {
    const { response } = this
    if (this.isEnded) {
      attempt(() => this.source?.destroy())
      return
    }
    if (this.#stream?.sentHeaders['content-length'] !== undefined) return
    const { strictContentLength } = response
    // HTTP/1: Node does not show a length that was passed to writeHead(). With this, end() throws if there is one, because Node has not
    // counted the bytes before.
    trySet(response, 'strictContentLength', true)
    try {
      response.end()
    } catch {
      // It has a length, or a replaced end() throws: its handler ends it, or the drain cuts it.
      return
    } finally {
      trySet(response, 'strictContentLength', strictContentLength)
    }
    seal(response)
  }

  /**
   * From now on, calls back when no read or write has made progress for `limit` milliseconds, and again after each further `limit`; not
   * while the handler need not make progress.
   */
  watch (limit: number, callback: () => void): void {
    const { socket } = this
    this.isWatched = true
    if (this.#stream !== undefined) this.#watchStream(this.#stream, limit, callback)
    else if (socket?.setTimeout === undefined) this.#watchWrites(limit, callback)
    else this.#watchSocket(socket as Socket, limit, callback)
  }

  /** A handler that sets a timeout of 0 turns off the timer of its connection. */
  keepWatching (): void {
    this.#rearm?.()
  }

  /**
   * Node's timer distinguishes a slow write from a stalled one, even if it is a single write of many megabytes. The handler may set its
   * own instead, of any length, so that of the plugin has a length that no user chooses.
   */
  #watchSocket (socket: Socket, limit: number, callback: () => void): void {
    const { response } = this
    const time = limit - OWN_TIMER
    const isOurs = () => socket.timeout === time
    const begin = () => {
      const { emit, timeout = 0 } = socket
      // The event of this timer is not for other code: Node would destroy the connection, and Fastify would run onTimeout hooks.
      const restore = replaceMethod(socket, 'emit', (...args: Parameters<typeof emit>) => {
        if (args[0] !== 'timeout' || !isOurs()) return emit.apply(socket, args)
        if (!this.isPausing && now() - this.#readAt >= limit * READ_PART) callback()
        socket.setTimeout(time)
        return true
      })
      socket.setTimeout(time)
      this.#rearm = () => { if (!socket.timeout) socket.setTimeout(time) }
      // The timeout of the connection applies again, such as Fastify's `connectionTimeout`: Node sets it only after that of an idle
      // connection. Ahead of Node's own listener, which sets the latter.
      response.prependOnceListener('finish', () => {
        restore()
        this.#rearm = undefined
        if (isOurs()) socket.setTimeout(timeout)
      })
    }
    // A response that waits behind others does not have its socket yet. Its handler may have set a timeout, which Node then sets.
    if (response.socket === null) response.prependOnceListener('socket', begin)
    else begin()
  }

  /**
   * Node has no timer for an injected request, nor for a stream that is not a socket. There, whether the client reads what the handler
   * has written is not known, only whether the handler writes.
   */
  #watchWrites (limit: number, callback: () => void): void {
    const { response } = this
    this.#noteWrites(response, ['write'])
    const stop = setLateInterval(due => {
      if (this.isPausing) this.#sentAt = now()
      if (response.writableLength > 0 || due - this.#progressAt < limit) return
      this.#sentAt = now()
      callback()
    }, checkIntervalOf(limit))
    response.once('finish', stop).once('close', stop)
  }

  /**
   * Progress is what the handler writes or reads, and what the client takes, not the traffic of other streams. Not with Node's stream
   * timer: with an onTimeout hook, Fastify listens to its 'timeout' event and throws.
   */
  #watchStream (stream: ServerHttp2Stream & Timed, limit: number, callback: () => void): void {
    this.#noteWrites(stream, ['write', 'respond', 'additionalHeaders'])
    // Node sends a file itself, and only the socket shows it. Unreadable once the session is destroyed.
    const sent = () => stream.writableEnded && stream.writableLength === 0
      ? attempt(() => (stream.session as ServerHttp2Session).socket.bytesWritten)
      : undefined
    const state = () => [
      stream.writableLength, stream.readableLength, this.request.readableLength, stream.state.localWindowSize, sent()
    ].join()
    let before = state()
    const stop = setLateInterval(due => {
      if (stream.closed || this.isFinished) {
        stop()
        return
      }
      const current = state()
      // If the client has closed the flow-control window, nothing changes.
      const moves = current !== before || this.isPausing || Number(stream.timeout) > 0
      before = current
      if (!moves && due - this.#progressAt < limit) return
      this.#sentAt = now()
      if (!moves) callback()
    }, checkIntervalOf(limit))
  }

  #noteWrites<K extends string> (target: Record<K, (...args: never[]) => unknown>, names: readonly K[]): void {
    for (const name of names) beforeCall(target, name, () => { this.#sentAt = now() })
    this.#sentAt = now()
  }
}

/**
 * Whether a stream is being read, or is being destroyed. Not one that nothing reads, as when an onSend hook replaces it: it may never
 * end. A stream of another library may lack these properties.
 */
function isActive (stream: Partial<Readable>): boolean {
  return attempt(() => {
    const { closed, destroyed, readableFlowing, readableEnded, errored } = stream
    return destroyed === true ? closed === false : readableFlowing !== null && readableEnded === false && errored === null
  }) === true
}

/** The headers that a browser needs to read a cross-origin error. */
function pick (headers: Record<string, unknown>): Record<string, string> {
  const names = Object.keys(headers).filter(name => name.startsWith('access-control-') || name === 'vary')
  return Object.fromEntries(names.map(name => [name, headers[name] as string]))
}

/** From now on, writes to the response have no effect. The connection itself works as usual. */
function seal (response: ServerResponse): void {
  const ignore = () => response
  const ignoreBody = (result: unknown) => (...args: unknown[]) => {
    const callback = args.at(-1)
    if (typeof callback === 'function') process.nextTick(callback)
    return result
  }
  for (const [name, method] of Object.entries({
    writeHead: ignore, setHeader: ignore, setHeaders: ignore, appendHeader: ignore, removeHeader: ignore, flushHeaders: ignore,
    addTrailers: ignore, write: ignoreBody(true), end: ignoreBody(response)
  })) trySet(response, name, method)
}

/** What Node gives a reader of a request body if the client disconnects. */
function abortedError (): Error {
  return Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
}

/** Also one that allows HTTP/1. */
export function isHttp2Server (server: Server): boolean {
  // Only HTTP/1 servers have this method.
  return !('closeAllConnections' in server)
}

export function isHttp2Request ({ httpVersionMajor }: IncomingMessage): boolean {
  return httpVersionMajor === 2
}

/** The stream over which a listener answers an upgrade or a CONNECT, and the method that begins the answer. */
export function answerOf (request: IncomingMessage, socket: Duplex): { stream: Duplex, method: 'write' | 'respond' } {
  if (!isHttp2Request(request)) return { stream: socket, method: 'write' }
  return { stream: (request as unknown as Http2ServerRequest).stream, method: 'respond' }
}

/** Whether a request asks for an upgrade and the server listens for upgrades, so that Node has detached its socket. */
export function isUpgrade (request: IncomingMessage): boolean {
  // Node sets the field, but its types lack it.
  return (request as { upgrade?: boolean }).upgrade === true || isInjectedUpgrade(request)
}

/** Whether the `injectWS()` of @fastify/websocket has made it: a plain object, with a socket only if a test has given it one. */
export function isInjectedUpgrade (request: Partial<IncomingMessage>): boolean {
  return typeof request.on !== 'function'
}

/**
 * Sends GOAWAY with the last stream that is served, so that the client may retry later ones elsewhere, and closes after the open ones
 * end. Not goaway() with the highest stream ID first, as a notice: Node then drops new streams silently.
 */
export function closeSession (session: Http2Session | undefined): void {
  // Node 20 corrupts its heap when it refuses a stream of a closed session: one in the same packet as this request, or one that arrives
  // before GOAWAY is sent. Once GOAWAY has been sent, nghttp2 ignores new streams.
  setImmediate(() => {
    if (session === undefined || session.destroyed || closingSessions.has(session)) return
    closingSessions.add(session)
    session.goaway()
    setImmediate(() => { session.close() })
  })
}

/**
 * Tells the client to stop sending once the end of the response has been sent. With the end still queued, as in the turn in which the
 * response finishes, or if the client does not read, nghttp2 would drop it.
 */
function closeOnceEnded (stream: ServerHttp2Stream): void {
  setImmediate(() => {
    if (stream.state.localClose === 1) stream.close(constants.NGHTTP2_NO_ERROR)
    else if (!stream.closed) setTimeout(closeOnceEnded, HTTP2_END_CHECK, stream).unref()
  })
}

/** Also if the server does not listen for upgrades any more, because @fastify/websocket has closed its WebSockets. */
export function asksForWebSocket (request: IncomingMessage): boolean {
  return isUpgrade(request) || request.headers.upgrade?.toLowerCase() === 'websocket'
}

/** The events with which an HTTP/2 server passes on a request that may be answered as usual. */
const REQUEST_EVENTS: ReadonlySet<unknown> = new Set(['request', 'checkContinue', 'checkExpectation'])

/**
 * Calls back for each HTTP/2 request as it arrives, before all listeners. Not with a listener: other code replaces those of `request`, and
 * one of the other events would keep Node from answering. A listener of these may pass the request on with `request`.
 */
export function onStreamRequest (server: Server, callback: (request: IncomingMessage, response: ServerResponse) => void): void {
  if (!isHttp2Server(server)) return
  const known = new WeakSet<IncomingMessage>()
  beforeCall(server, 'emit', (event, ...args) => {
    if (!REQUEST_EVENTS.has(event)) return
    const [request, response] = args as [IncomingMessage, ServerResponse]
    if (!isHttp2Request(request) || known.has(request)) return
    known.add(request)
    callback(request, response)
  })
}
