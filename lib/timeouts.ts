// The read, write and idle timeouts, on every listener. Node has one of its own for each; what is left to do is
// to set it where it acts. A write timer per request would cost more than the request, so a sweep over the requests in
// flight cuts those that stand still for too long, and hands those that move for a while to Node's timer.

import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Http2ServerRequest, ServerHttp2Session } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { Connections } from './connections.ts'
import type { Cuts } from './cuts.ts'
import type { InFlight } from './in-flight.ts'
import type { Options, Timeout } from './options.ts'
import { createServer } from 'node:http'
import { constants } from 'node:http2'
import { ReadTimeoutError, WriteTimeoutError } from './errors.ts'
import { hasBody } from './request-body.ts'

/** What a server holds where the user gave nothing; any other value is the user's, and stays. */
const FASTIFY_DEFAULTS = { requestTimeout: 0, keepAliveTimeout: 72_000, timeout: 0, http2SessionTimeout: 72_000 }
const NODE_DEFAULTS = createServer()

/** A timeout acts late by at most this part of its length, and by at most a second. */
const LATENESS = { part: 1 / 10, least: 10, most: 1_000 }

/** On a reply: Node's timer watches its progress. */
const kWatched = Symbol('graceful.watched')
/** On a reply: its route's own write timeout. */
const kWriteTimeout = Symbol('graceful.write-timeout')

interface Timed extends FastifyReply {
  [kWatched]?: true
  [kWriteTimeout]?: Timeout
}

/** The properties of Node's HTTP servers that are set here. */
interface TimedServer extends Server {
  requestTimeout: number
  headersTimeout: number
  keepAliveTimeout: number
  timeout: number
  connectionsCheckingInterval: number
}

export class Timeouts {
  readonly #options: Options
  readonly #inFlight: InFlight
  readonly #connections: Connections
  readonly #cuts: Cuts
  readonly #log: FastifyInstance['log']
  readonly #sessionTimeout: number
  /** For HTTP/2, which has no such timeout in Node. */
  readonly #read: Timeout
  #write: Timeout
  #shortest = Infinity
  #sweeper: NodeJS.Timeout | undefined

  constructor (options: Options, fastify: FastifyInstance, inFlight: InFlight, connections: Connections, cuts: Cuts) {
    this.#options = options
    this.#inFlight = inFlight
    this.#connections = connections
    this.#cuts = cuts
    this.#log = fastify.log
    this.#write = options.writeTimeout
    const { http2SessionTimeout = 0, requestTimeout } = fastify.initialConfig as { http2SessionTimeout?: number, requestTimeout?: number }
    this.#read = options.given.has('readTimeout') ? options.readTimeout : requestTimeout || options.readTimeout
    const ours = options.given.has('idleTimeout') || http2SessionTimeout === FASTIFY_DEFAULTS.http2SessionTimeout
    this.#sessionTimeout = ours ? options.idleTimeout || 0 : http2SessionTimeout
  }

  /** Sets a listener's timeouts, before it listens. */
  apply (listener: Server): void {
    const server = listener as TimedServer
    const { given, readTimeout, idleTimeout } = this.#options
    const ours = (option: string, property: 'requestTimeout' | 'keepAliveTimeout' | 'timeout') => given.has(option) ||
      server[property] === FASTIFY_DEFAULTS[property] || server[property] === NODE_DEFAULTS[property]

    if ('requestTimeout' in server) {
      if (ours('readTimeout', 'requestTimeout')) server.requestTimeout = readTimeout || 0
      if (server.requestTimeout > 0) {
        // Node swaps the two while headersTimeout is the larger, and looks at them only every 30 s.
        server.headersTimeout = Math.min(server.headersTimeout, server.requestTimeout)
        server.connectionsCheckingInterval = Math.min(server.connectionsCheckingInterval, lateness(server.requestTimeout))
      }
      if (ours('idleTimeout', 'keepAliveTimeout')) server.keepAliveTimeout = idleTimeout || 0
    }
    if (ours('writeTimeout', 'timeout')) {
      server.timeout = 0
    } else {
      this.#write = false
    }
    server.on('session', (session: ServerHttp2Session) => { session.setTimeout(this.#sessionTimeout) })
    this.#shortest = Math.min(this.#shortest, this.#read || Infinity, this.#write || Infinity, this.#options.drainTimeout || Infinity)
  }

  /** Takes note of a route's own write timeout; the route then calls `setFor` on each of its requests. */
  noteRoute (timeout: Timeout): void {
    this.#shortest = Math.min(this.#shortest, timeout || Infinity)
  }

  setFor (reply: Timed, timeout: Timeout): void {
    reply[kWriteTimeout] = timeout
  }

  /** Starts the sweep; it keeps no process alive. */
  start (): void {
    this.#sweeper ??= setInterval(() => { this.#sweep() }, lateness(this.#shortest)).unref()
  }

  stop (): void {
    clearInterval(this.#sweeper)
  }

  #sweep (): void {
    this.#connections.lastHeard()
    for (const reply of this.#inFlight.replies()) this.#look(reply)
  }

  #look (reply: Timed): void {
    endLost(reply)
    const unheard = this.#inFlight.unheardFor(reply)
    if (unheard !== undefined && unheard > this.#options.drainTimeout) {
      // No drain would have waited longer: without this, each long poll that its client left would count for ever.
      this.#inFlight.leave(reply)
      this.#log.warn({ reqId: reply.request.id, route: reply.request.routeOptions.url },
        'A handler has not answered since its client left; it is no longer counted as in flight')
    }
    if (this.#inFlight.isOrphan(reply)) return
    this.#enforceRead(reply)
    this.#enforceWrite(reply)
  }

  /** Node's requestTimeout does not reach HTTP/2. */
  #enforceRead (reply: Timed): void {
    const { raw } = reply.request
    if (this.#read === false || raw.httpVersionMajor !== 2 || reply.elapsedTime < this.#read) return
    const { stream } = raw as unknown as Http2ServerRequest
    if (stream.state.remoteClose !== 1) this.#cuts.cut(reply, new ReadTimeoutError(this.#read))
  }

  #enforceWrite (reply: Timed): void {
    const limit = reply[kWriteTimeout] ?? this.#write
    if (limit === false || reply[kWatched] !== undefined) return
    // Since it came in, then; and a timer would take more memory than all else that is known of it.
    const still = isStill(reply)
    if (still && reply.elapsedTime < limit) return
    this.#watch(reply, limit)
    if (still) this.#cuts.cut(reply, new WriteTimeoutError(limit))
  }

  #watch (reply: Timed, limit: number): void {
    reply[kWatched] = true
    // Node knows a write that crawls from one that stands still, be it a single chunk of many megabytes.
    const { raw } = reply.request
    // An injected request's has no timer.
    const socket: Partial<Pick<Socket, 'setTimeout'>> = raw.socket
    const cut = () => {
      this.#cuts.cut(reply, new WriteTimeoutError(limit))
      // Once more, for an answer that is not read either: while it waits behind others, nothing sets the timer anew.
      if (raw.httpVersionMajor === 2) (raw as unknown as Http2ServerRequest).stream.setTimeout(limit, cut)
      else socket.setTimeout?.(limit)
    }
    reply.raw.setTimeout(limit, cut)
    // Node sets it anew for an idle connection, if that has a limit.
    if (this.#options.idleTimeout === false) reply.raw.once('close', () => { socket.setTimeout?.(0) })
  }
}

/**
 * Node 20 and 22 lose some streams of an HTTP/2 session that closes under load: nghttp2 has none under their number any
 * more, and they never say 'close'.
 */
function endLost ({ request: { raw } }: FastifyReply): void {
  if (raw.httpVersionMajor !== 2) return
  const { stream } = raw as unknown as Http2ServerRequest
  if (stream.closed && !stream.destroyed && stream.state.state === constants.NGHTTP2_STREAM_STATE_IDLE) stream.destroy()
}

/** Whether nothing comes in any more, and nothing has gone out yet. */
function isStill ({ raw: response, request: { raw } }: FastifyReply): boolean {
  return raw.httpVersionMajor !== 2 && !response.headersSent && !hasBody(raw)
}

function lateness (timeout: number): number {
  return Math.min(LATENESS.most, Math.max(LATENESS.least, timeout * LATENESS.part))
}
