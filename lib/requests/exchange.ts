// A request and its response. Nothing outside this file needs to know HTTP/1 from HTTP/2.
//
// Two questions decide when a request is over, and each has its field: what became of the response (`wire`), and what is
// known of the handler (`handler`). requests.ts is the only file that moves them.

import type { FastifyError } from '@fastify/error'
import type { FastifyReply } from 'fastify'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Http2ServerRequest, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import { constants } from 'node:http2'
import { errorBody } from '../errors.ts'

/**
 * - `open`: the client waits for its answer.
 * - `finished`: the client has been sent all of the handler's answer.
 * - `orphaned`: no client waits for the handler, because it has gone or was answered in the handler's place.
 */
export type Wire = 'open' | 'finished' | 'orphaned'

/**
 * - `unreached`: hooks are at work, or no route matched, or the route is older than the plugin.
 * - `returned`: the handler has returned no promise; only its answer tells that it is done.
 * - `running`: the handler's promise is pending.
 * - `settled`: the handler's promise is settled.
 */
export type Handler = 'unreached' | 'returned' | 'running' | 'settled'

export abstract class Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /**
   * Of HTTP/1 only. Kept, because `request.socket` may become null: undici does that to a request that it sends on as a body.
   */
  readonly socket: Socket | undefined
  /** Known once the plugin's onRequest hook has run; hooks that were registered earlier run ahead of it. */
  reply: FastifyReply | undefined = undefined
  /** The request ahead of this one on an HTTP/1 connection, as long as that is not finished. */
  previous: Exchange | undefined = undefined
  /** When the sweep first met it while that was not known, as performance.now() counts. */
  seenAt = 0
  wire: Wire = 'open'
  handler: Handler = 'unreached'
  /** Whether an orphaned request has been answered, for a handler that returned no promise. */
  answered = false
  /** Since when a sweep has found no sign of its handler, after its client has gone; as performance.now() counts. */
  silentSince = 0
  /** The route's own write timeout. */
  writeTimeout: number | false | undefined = undefined
  /** Whether Node's timer watches the progress of the response. */
  watched = false

  constructor (request: IncomingMessage, response: ServerResponse, socket: Socket | undefined) {
    this.request = request
    this.response = response
    this.socket = socket
  }

  /** Whether all of the response has been handed to the kernel. */
  abstract get isFinished (): boolean
  /** Whether the connection, or the stream, is gone. */
  abstract get isGone (): boolean
  /** Whether a part of the body is still on its way. */
  abstract get isReceiving (): boolean
  /** Whether that is read on the connection itself, which would be reset if it closed now. */
  abstract get needsConnection (): boolean
  /** Whether Fastify's body parser will wait for ever, because the client left before its body was read. */
  abstract get isBodyLost (): boolean
  /** Whether Node itself answers a request that is not received in time. */
  abstract get isTimedByNode (): boolean
  /** Whether nothing is received any more and nothing has been sent yet: only the handler is at work. */
  abstract get isStill (): boolean
  /** Calls back once, when the connection or stream is closed. */
  abstract onClose (callback: () => void): void
  /** Its connection or stream is gone: says so to the response. */
  abstract tellClosed (): void
  /** Cuts the connection, or resets the stream. */
  abstract abort (): void
  /** This response is the last one on its connection, as far as its head is not yet sent. */
  abstract endConnection (): void
  /** Takes `endConnection` back, as far as its head is not yet sent: another request follows on the connection. */
  abstract keepConnection (): void
  /** Calls back when neither a read nor a write made progress for so long. */
  abstract watch (limit: number, callback: () => void): void

  /** Whether its response is complete and waits for the one ahead of it. */
  get isWaitingForTurn (): boolean {
    return this.response.writableEnded && this.previous !== undefined && !this.previous.isFinished
  }

  /** How old it is, in milliseconds; from its first sweep on, while a hook ahead of the plugin's holds it. */
  get age (): number {
    if (this.reply !== undefined) return this.reply.elapsedTime
    return this.seenAt === 0 ? 0 : performance.now() - this.seenAt
  }

  /** Whether the handler writes the response past Fastify. */
  get isHijacked (): boolean {
    return this.reply?.sent === true && !this.response.writableEnded
  }

  /** Whether the head of the response is out, or the handler has ended the response. */
  get isAnswered (): boolean {
    return this.response.headersSent || this.response.writableEnded
  }

  /**
   * Sends a whole error response in the handler's place. Not with `reply.send()`: that throws while onError hooks run,
   * and runs onSend hooks twice where they are at work already. So what Fastify or the handler still write is ignored.
   */
  answer (error: FastifyError, own: OutgoingHttpHeaders = {}): void {
    const { response, reply } = this
    const body = errorBody(error)
    const headers = { ...pick(reply?.getHeaders() ?? response.getHeaders()), ...ERROR_HEADERS, ...own, 'content-length': Buffer.byteLength(body) }
    // What describes the handler's body, an encoding for instance, does not describe this one.
    for (const name of response.getHeaderNames()) response.removeHeader(name)
    response.writeHead(error.statusCode as number, headers)
    response.end(body)
    this.#seal()
  }

  /** From now on, writing to the response changes nothing. The connection itself goes on as usual. */
  #seal (): void {
    const { response } = this
    const ignore = () => response
    Object.assign(response, {
      writeHead: ignore, setHeader: ignore, setHeaders: ignore, appendHeader: ignore, removeHeader: ignore, flushHeaders: ignore,
      addTrailers: ignore,
      write: (...args: unknown[]) => {
        callBack(args)
        return true
      },
      end: (...args: unknown[]) => {
        callBack(args)
        return response
      }
    })
  }
}

const ERROR_HEADERS = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' }

/** The headers that let a browser read an error of another origin. */
function pick (headers: Record<string, unknown>): Record<string, string> {
  const names = Object.keys(headers).filter(name => name.startsWith('access-control-') || name === 'vary')
  return Object.fromEntries(names.map(name => [name, headers[name] as string]))
}

function callBack (args: unknown[]): void {
  const callback = args.at(-1)
  if (typeof callback === 'function') process.nextTick(callback)
}

/** Fastify reads no body of these methods. */
const METHODS_WITHOUT_BODY = new Set<string | undefined>(['GET', 'HEAD', 'TRACE'])

function hasBody ({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

class Http1Exchange extends Exchange {
  declare readonly socket: Socket

  get isFinished (): boolean {
    // Node says so of a response that was cut off by an abort, too; its socket has then not been written to the end.
    return this.response.writableFinished && (!this.socket.destroyed || this.socket.writableFinished)
  }

  get isGone (): boolean {
    // An injected request has no connection; its response is destroyed.
    return this.socket.destroyed || (this.response.destroyed && !this.response.writableFinished)
  }

  get isReceiving (): boolean {
    return !this.request.complete && !this.request.destroyed && hasBody(this.request)
  }

  get needsConnection (): boolean {
    return this.isReceiving
  }

  get isBodyLost (): boolean {
    return hasBody(this.request) && !this.request.readableEnded && !METHODS_WITHOUT_BODY.has(this.request.method)
  }

  get isTimedByNode (): boolean {
    return true
  }

  get isStill (): boolean {
    return !this.response.headersSent && !hasBody(this.request)
  }

  onClose (callback: () => void): void {
    this.response.once('close', callback)
  }

  /** Node 20 and 22 say nothing to a response that has not had its turn yet; 24 and later do this themselves. */
  tellClosed (): void {
    if (!this.response.destroyed) this.response.destroy().emit('close')
  }

  abort (): void {
    this.response.destroy()
    // A response that waits for its turn does not lead to its connection; an injected one has none.
    ;(this.socket as Partial<Socket>).destroy?.()
  }

  endConnection (): void {
    // Node writes the header by this property; a header that is set would have all others merged one by one.
    if (!this.response.headersSent) this.response.shouldKeepAlive = false
  }

  keepConnection (): void {
    if (!this.response.headersSent) this.response.shouldKeepAlive = true
  }

  /** Node's timer tells a write that is slow from one that stands still, even if it is a single one of many megabytes. */
  watch (limit: number, callback: () => void): void {
    const { response } = this
    const socket: Partial<Socket> = this.socket
    response.setTimeout(limit, () => {
      callback()
      // Once more, for an answer that is not read either: while it waits behind others, nothing sets the timer anew.
      socket.setTimeout?.(limit)
    })
    // Ahead of Node's own listener, which sets the timer of an idle connection, if that has a limit.
    response.prependOnceListener('finish', () => { socket.setTimeout?.(0) })
  }
}

class Http2Exchange extends Exchange {
  readonly #stream: ServerHttp2Stream

  constructor (request: IncomingMessage, response: ServerResponse, stream: ServerHttp2Stream) {
    super(request, response, undefined)
    this.#stream = stream
  }

  /** Node says 'finish' of a response after a reset, too. */
  get isFinished (): boolean {
    return this.response.writableEnded && this.#stream.writableFinished && (this.#stream.rstCode ?? 0) === constants.NGHTTP2_NO_ERROR
  }

  /** Not by 'close' alone: Node 20 and 22 lose some streams of a session that closes under load, and never say it. */
  get isGone (): boolean {
    return this.#stream.closed || this.#stream.destroyed
  }

  get isReceiving (): boolean {
    return !this.isGone && !this.#stream.endAfterHeaders && this.#stream.state.remoteClose !== 1
  }

  /** A session that closes lets its streams end. */
  get needsConnection (): boolean {
    return false
  }

  get isBodyLost (): boolean {
    return !this.#stream.endAfterHeaders && !(this.request.readableDidRead && this.request.readableEnded)
  }

  get isTimedByNode (): boolean {
    return false
  }

  get isStill (): boolean {
    return false
  }

  onClose (callback: () => void): void {
    this.#stream.once('close', callback)
  }

  tellClosed (): void {}

  abort (): void {
    this.#stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  }

  endConnection (): void {
    closeSession(this.#stream.session)
  }

  /** A session takes other streams, or none. */
  keepConnection (): void {}

  watch (limit: number, callback: () => void): void {
    // Node's timer of a stream is set anew by any progress of its session, so it tells only of a source that is silent.
    this.#stream.setTimeout(limit, callback)
    this.#watchWindow(limit, callback)
  }

  /** A stream whose client opens no window: what waits to be written does not change. */
  #watchWindow (limit: number, callback: () => void): void {
    const stream = this.#stream
    let waiting = stream.writableLength
    let since = performance.now()
    const progress = () => { since = performance.now() }
    const timer = setInterval(() => {
      if (stream.writableLength !== waiting || waiting === 0) {
        waiting = stream.writableLength
        progress()
      } else if (performance.now() - since >= limit) {
        progress()
        callback()
      }
    }, Math.max(1, limit / 4)).unref()
    stream.on('drain', progress)
    stream.once('close', () => { clearInterval(timer) })
  }
}

/** The exchange of a request that has come in. */
export function createExchange (request: IncomingMessage, response: ServerResponse): Exchange {
  return request.httpVersionMajor === 2
    ? new Http2Exchange(request, response, (request as unknown as Http2ServerRequest).stream)
    : new Http1Exchange(request, response, request.socket)
}

/**
 * Sends GOAWAY, refuses new streams, so that their client may try them elsewhere, and closes after those that are open.
 * Not goaway() with the highest stream first, as a notice: Node then drops new streams without a word.
 */
export function closeSession (session: Pick<ServerHttp2Session, 'closed' | 'close'> | undefined): void {
  // Not at once: on Node 20, a session that is closed while one of its requests is being handed over corrupts the heap.
  setImmediate(() => { if (session?.closed === false) session.close() })
}

/** Calls back for each request of HTTP/2 as it arrives, ahead of Fastify's listener. */
export function onStreamRequest (server: Server, callback: (request: IncomingMessage, response: ServerResponse) => void): void {
  // Servers of HTTP/1 have it: to listen there, too, would cost each of their requests.
  if ('closeAllConnections' in server) return
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    if (request.httpVersionMajor === 2) callback(request, response)
  })
}
