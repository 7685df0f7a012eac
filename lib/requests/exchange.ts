// A request and its response. Nothing outside this file needs to know HTTP/1 from HTTP/2.
//
// Two questions decide when a request is over, and each has its field: what became of the response (`wire`), and what is
// known of the handler (`handler`). in-flight.ts is the only file that moves them.

import type { FastifyError } from '@fastify/error'
import type { FastifyReply } from 'fastify'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Http2ServerRequest, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { Connection } from '../connections/connection.ts'
import { constants } from 'node:http2'
import { clearInterval, now, setImmediate, setInterval } from '../clock.ts'
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
 * - `settled`: the handler's promise is settled.
 */
export type Handler = 'unreached' | 'returned' | 'settled'

/** Fastify reads no body of these methods. */
export const METHODS_WITHOUT_BODY: ReadonlySet<string | undefined> = new Set(['GET', 'HEAD', 'TRACE'])

const ERROR_HEADERS = { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store' }

export class Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /** Of HTTP/1. Kept, because `request.socket` may become null: undici does that to a request that it sends on as a body. */
  readonly socket: Socket | undefined
  /** Of HTTP/2. */
  readonly #stream: ServerHttp2Stream | undefined
  /** Known once the plugin's onRequest hook has run; hooks that were registered earlier run ahead of it. */
  reply: FastifyReply | undefined = undefined
  /** Of HTTP/1, if a listener of ours accepted it. */
  connection: Connection | undefined = undefined
  /** The request ahead of this one on an HTTP/1 connection, as long as that is not finished. */
  previous: Exchange | undefined = undefined
  wire: Wire = 'open'
  handler: Handler = 'unreached'
  /** Handlers that run, or whose promise is pending. */
  handlers = 0
  /** Whether it asks for another protocol, and no handler has been reached that serves it as a request. */
  isUpgrade = false
  /** Whether Fastify has parsed its body; told of routes whose requests may have one. */
  isParsed = false
  /** Whether an orphaned request has been answered, for a handler that returned no promise. */
  answered = false
  /** When it began, as now() counts; 0 as long as Fastify's own clock tells. */
  startedAt = 0
  /** Since when a sweep has found no sign of its handler, after its client has gone; as now() counts. */
  silentSince = 0
  /** The route's own write timeout. */
  writeTimeout: number | false | undefined = undefined
  /** Whether a timer watches the progress of the response. */
  watched = false

  constructor (request: IncomingMessage, response: ServerResponse) {
    this.request = request
    this.response = response
    const isHttp2 = request.httpVersionMajor === 2
    this.socket = isHttp2 ? undefined : request.socket
    this.#stream = isHttp2 ? (request as unknown as Http2ServerRequest).stream : undefined
  }

  /** Whether all of the response has been handed to the kernel. Node says 'finish' of a response that was cut off, too. */
  get isFinished (): boolean {
    const { response, socket } = this
    const stream = this.#stream
    if (stream !== undefined) return response.writableEnded && stream.writableFinished && !stream.rstCode
    return response.writableFinished && (socket?.destroyed !== true || socket.writableFinished)
  }

  /**
   * Whether the connection or stream is gone. Not by 'close' alone: Node 20 and 22 lose some streams of a session that closes
   * under load, and never say it. An injected request has no connection; its response is destroyed.
   */
  get isGone (): boolean {
    const { response, socket } = this
    const stream = this.#stream
    if (stream !== undefined) return stream.closed || stream.destroyed
    return socket?.destroyed === true || (response.destroyed && !response.writableFinished)
  }

  get #hasBody (): boolean {
    if (this.#stream !== undefined) return !this.#stream.endAfterHeaders
    const { headers } = this.request
    return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
  }

  /** Whether a part of the body is still on its way. */
  get isReceiving (): boolean {
    if (!this.#hasBody) return false
    if (this.#stream !== undefined) return !this.isGone && this.#stream.state.remoteClose !== 1
    return !this.request.complete && !this.request.destroyed
  }

  /** Whether that would be reset if the connection closed now. A session of HTTP/2 that closes lets its streams end. */
  get needsConnection (): boolean {
    return this.#stream === undefined && this.isReceiving
  }

  /** Whether Fastify's body parser will wait for ever, as it does if the client leaves before the body is parsed. */
  get isBodyLost (): boolean {
    return this.#hasBody && !METHODS_WITHOUT_BODY.has(this.request.method) && !this.isParsed
  }

  /** Whether Node itself answers a request that is not received in time. */
  get isTimedByNode (): boolean {
    return this.#stream === undefined
  }

  /** Whether nothing is received any more and nothing has been sent yet: only the handler is at work. */
  get isStill (): boolean {
    return this.#stream === undefined && !this.response.headersSent && !this.#hasBody
  }

  /** Whether its response is complete and waits for the one ahead of it. */
  get isWaitingForTurn (): boolean {
    return this.response.writableEnded && this.previous !== undefined && !this.previous.isFinished
  }

  /** Whether the head of the response is out, or the handler has ended the response. */
  get isAnswered (): boolean {
    return this.response.headersSent || this.response.writableEnded
  }

  /** Whether the handler writes the response past Fastify. */
  get isHijacked (): boolean {
    return this.reply?.sent === true && !this.response.writableEnded
  }

  /** How old it is, in milliseconds; from its first sweep on, while a hook ahead of the plugin's holds it. */
  get age (): number {
    if (this.startedAt > 0) return now() - this.startedAt
    return this.reply?.elapsedTime ?? 0
  }

  /** Keeps the age of a request, of which Fastify's own clock is about to stop. */
  keepAge (): void {
    this.startedAt = now() - this.age
  }

  /** Calls back once, when the stream is closed, or the response of HTTP/1. */
  onClose (callback: () => void): void {
    (this.#stream ?? this.response).once('close', callback)
  }

  /** Says to the response that its connection is gone: Node 20 and 22 do not say so to one that has not had its turn yet. */
  tellClosed (): void {
    if (this.#stream === undefined && !this.response.destroyed) this.response.destroy().emit('close')
  }

  /** Cuts the connection, or resets the stream. */
  abort (): void {
    if (this.#stream !== undefined) {
      this.#stream.close(constants.NGHTTP2_INTERNAL_ERROR)
      return
    }
    this.response.destroy()
    // A response that waits for its turn does not lead to its connection; an injected one has none.
    ;(this.socket as Partial<Socket> | undefined)?.destroy?.()
  }

  /** This response is the last one on its connection, as far as its head is not yet sent. */
  endConnection (): void {
    if (this.#stream !== undefined) closeSession(this.#stream.session)
    // Node writes the header by this property; a header that is set would have all others merged one by one.
    else if (!this.response.headersSent) this.response.shouldKeepAlive = false
  }

  /** Takes `endConnection` back, because another request follows on the connection. */
  keepConnection (): void {
    if (!this.response.headersSent) this.response.shouldKeepAlive = true
  }

  /**
   * Sends a whole error response in the handler's place. Not with `reply.send()`: that throws while onError hooks run,
   * and runs onSend hooks twice where they are at work already. So what Fastify or the handler still write is ignored.
   */
  answer (error: FastifyError, own: OutgoingHttpHeaders = {}): void {
    const { response, reply } = this
    const body = errorBody(error)
    const headers = {
      ...pick(reply?.getHeaders() ?? response.getHeaders()), ...ERROR_HEADERS, ...own, 'content-length': Buffer.byteLength(body)
    }
    // What describes the handler's answer, an encoding for instance, does not describe this one.
    for (const name of response.getHeaderNames()) response.removeHeader(name)
    if (this.#stream === undefined) response.statusMessage = ''
    response.writeHead(error.statusCode as number, headers)
    response.end(body)
    // A middleware has replaced end(), and has not called the real one yet: it may still write an answer of its own.
    if (response.writableEnded) seal(response)
    else this.abort()
  }

  /** Calls back when neither a read nor a write has made progress for `limit` milliseconds, and again after as long. */
  watch (limit: number, callback: () => void): void {
    this.watched = true
    if (this.#stream === undefined) watchSocket(this.response, this.socket ?? {}, limit, callback)
    else watchStream(this.#stream, limit, callback)
  }
}

/** Node's timer tells a write that is slow from one that stands still, even if it is a single one of many megabytes. */
function watchSocket (response: ServerResponse, socket: Partial<Socket>, limit: number, callback: () => void): void {
  response.setTimeout(limit, () => {
    callback()
    // While an answer waits behind others, nothing sets the timer anew.
    socket.setTimeout?.(limit)
  })
  // Ahead of Node's own listener, which sets the timer of an idle connection, if that has a limit.
  response.prependOnceListener('finish', () => { socket.setTimeout?.(0) })
}

/** Any progress of its session sets Node's timer of a stream anew, so that tells only of a source that is silent. */
function watchStream (stream: ServerHttp2Stream, limit: number, callback: () => void): void {
  const silent = () => {
    callback()
    stream.setTimeout(limit, silent)
  }
  stream.setTimeout(limit, silent)

  // If its client opens no window, what waits to be written does not change.
  let waiting = stream.writableLength
  let since = now()
  const progress = () => { since = now() }
  const timer = setInterval(() => {
    if (stream.closed) clearInterval(timer)
    if (waiting > 0 && stream.writableLength === waiting && now() - since < limit) return
    if (waiting > 0 && stream.writableLength === waiting) callback()
    waiting = stream.writableLength
    progress()
  }, Math.max(1, limit / 4)).unref()
  stream.on('drain', progress)
  stream.once('close', () => { clearInterval(timer) })
}

/** The headers that let a browser read an error of another origin. */
function pick (headers: Record<string, unknown>): Record<string, string> {
  const names = Object.keys(headers).filter(name => name.startsWith('access-control-') || name === 'vary')
  return Object.fromEntries(names.map(name => [name, headers[name] as string]))
}

/** From now on, writing to the response changes nothing. The connection itself goes on as usual. */
function seal (response: ServerResponse): void {
  const ignore = () => response
  const callBack = (args: unknown[]) => {
    const callback = args.at(-1)
    if (typeof callback === 'function') process.nextTick(callback)
  }
  const write = (...args: unknown[]) => {
    callBack(args)
    return true
  }
  const end = (...args: unknown[]) => {
    callBack(args)
    return response
  }
  Object.assign(response, {
    writeHead: ignore, setHeader: ignore, setHeaders: ignore, appendHeader: ignore, removeHeader: ignore, flushHeaders: ignore,
    addTrailers: ignore, write, end
  })
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
