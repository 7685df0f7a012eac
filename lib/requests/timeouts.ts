// The read, write and idle timeouts, on every listener. Node enforces those of headers and of idle connections; they only have to
// be set so that they take effect. Its requestTimeout cannot grow with what has arrived, and a timer per request would cost more
// than the request. So a sweep over the requests cuts those with a body or a response that makes no progress, and starts a timer only for
// those that it cannot judge by looking at them now and then, such as a response that has begun.

import type { FastifyInstance } from 'fastify'
import type { Server as HttpServer } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { Connections } from '../connections/sockets.ts'
import type { SafeLog } from '../lifecycle/log.ts'
import type { Options, RouteOptions, Timeout } from '../options.ts'
import type { Cuts } from './cut.ts'
import { isHttp2Server, type Exchange } from './exchange.ts'
import type { Handshakes } from './handshakes.ts'
import type { InFlight } from './in-flight.ts'
import { createServer } from 'node:http'
import { beforeCall, trySet } from '../before-call.ts'
import { setLateInterval } from '../clock.ts'
import { ReadTimeoutError, WriteTimeoutError } from '../errors.ts'
import { KEEP_ALIVE_BUFFER, LONGEST_TIMER, READ_PER_KIB, checkIntervalOf } from '../times.ts'
import { attemptEach } from '../values.ts'

/** The defaults of a server. Any other value is the user's, and is kept. */
const FASTIFY_DEFAULTS = { requestTimeout: 0, keepAliveTimeout: 72_000, timeout: 0 }
const NODE_DEFAULTS = createServer()

/** What Node has of a server for HTTP/1, or that allows it; of another one, only the last. */
const SERVER_TIMEOUTS = ['requestTimeout', 'headersTimeout', 'connectionsCheckingInterval', 'keepAliveTimeout', 'timeout'] as const

/** Node's types lack the property. */
type TimedServer = HttpServer & { connectionsCheckingInterval: number }

/** Fastify's own timeout options; its types lack some. */
type Configured = Partial<Record<'requestTimeout' | 'keepAliveTimeout' | 'connectionTimeout', number>>

export class Timeouts {
  readonly #options: Options
  readonly #fastify: FastifyInstance
  readonly #inFlight: InFlight
  readonly #handshakes: Handshakes
  readonly #connections: Connections
  readonly #cuts: Cuts
  readonly #log: SafeLog
  readonly #read: Timeout
  /** Whether the user has set Node's `requestTimeout`, which limits HTTP/1 requests. */
  #isRequestTimeoutKept = false
  /** Whether the user has set Node's `timeout` of connections over HTTP/1. */
  #isTimeoutKept = false
  /** The same of HTTP/2 sessions. */
  #isSessionTimeoutKept = false
  /** How long an HTTP/2 session may be idle; undefined if Fastify or Node limits that. */
  #sessionTimeout: number | undefined
  #shortest = Infinity
  /** Ends the sweep. */
  #sweeper: (() => void) | undefined
  #hasListener = false

  constructor (
    options: Options, fastify: FastifyInstance, inFlight: InFlight, handshakes: Handshakes, connections: Connections, cuts: Cuts,
    log: SafeLog
  ) {
    this.#options = options
    this.#fastify = fastify
    this.#inFlight = inFlight
    this.#handshakes = handshakes
    this.#connections = connections
    this.#cuts = cuts
    this.#log = log
    const { requestTimeout } = fastify.initialConfig as Configured
    this.#read = options.given.has('readTimeout') ? options.readTimeout : requestTimeout || options.readTimeout
  }

  /** Sets a listener's timeouts, before it listens. */
  apply (listener: Server): void {
    const server = listener as TimedServer
    const first = this.#fastify.server as TimedServer
    if (server === first) this.#decide(server)
    // The second one for `localhost`. Other code can set timeouts only on the first one, until it listens.
    else for (const name of SERVER_TIMEOUTS) if (name in first) server[name] = first[name]
    server.on('session', (session: ServerHttp2Session) => {
      // Otherwise, Fastify's own http2SessionTimeout stays, or what a serverFactory has set. A session has only one timer: for
      // server.timeout, Node listens to it, and destroys the session with its streams.
      if (this.#sessionTimeout !== undefined) session.removeAllListeners('timeout').setTimeout(this.#sessionTimeout, () => { session.close() })
      // Node (20 to 26) leaves the timer of a closed session running, which keeps the session in memory until the timeout is over:
      // setTimeout() has no effect once the session is destroyed. Node destroys it by either of these.
      const clear = () => { session.setTimeout(0) }
      beforeCall(session, 'destroy', clear)
      // Without a socket, another listener has already destroyed it.
      ;(session.socket as Socket | undefined)?.prependListener('close', clear)
    })
    this.noteLimits({ readTimeout: this.#read, writeTimeout: this.#options.writeTimeout })
  }

  #decide (server: TimedServer): void {
    const { given, readTimeout, idleTimeout } = this.#options
    const { requestTimeout, keepAliveTimeout, connectionTimeout } = this.#fastify.initialConfig as Configured
    /**
     * The user's Fastify options, by the names of Node's properties. Fastify itself sets the first two only on its own HTTP/1 servers. On
     * an HTTP/2 server of a serverFactory, Node would apply the last one to sessions, and destroy them with their streams.
     */
    const configured = { requestTimeout, keepAliveTimeout, timeout: isHttp2Server(server) ? undefined : connectionTimeout }
    /** The user's value, of the server or given to Fastify, if it takes precedence over the plugin's option. */
    const chosen = (option: string, property: keyof typeof configured) => {
      const { [property]: value } = server
      if (given.has(option)) return undefined
      if (![FASTIFY_DEFAULTS[property], NODE_DEFAULTS[property], undefined].includes(value)) return value
      return configured[property] === FASTIFY_DEFAULTS[property] ? undefined : configured[property]
    }

    if ('requestTimeout' in server) {
      const requestLimit = chosen('readTimeout', 'requestTimeout')
      this.#isRequestTimeoutKept = requestLimit !== undefined
      const limit = (requestLimit ?? readTimeout) || Infinity
      // Node's covers the whole request; the sweep covers bodies.
      trySet(server, 'requestTimeout', requestLimit ?? 0)
      // Node swaps the two if headersTimeout is larger, and checks them only every 30 s.
      if (limit < Infinity) trySet(server, 'headersTimeout', Math.min(server.headersTimeout || limit, limit))
      trySet(server, 'connectionsCheckingInterval', Math.min(server.connectionsCheckingInterval, checkIntervalOf(limit)))
      const idleLimit = chosen('idleTimeout', 'keepAliveTimeout') ?? Math.min(idleTimeout || 0, LONGEST_TIMER - KEEP_ALIVE_BUFFER)
      trySet(server, 'keepAliveTimeout', idleLimit)
    }
    const { timeout: before } = server
    const timeout = chosen('writeTimeout', 'timeout')
    trySet(server, 'timeout', timeout ?? 0)
    this.#isTimeoutKept = timeout !== undefined
    // On a session, Fastify replaces connectionTimeout with http2SessionTimeout.
    const isOwn = before > 0 && before !== connectionTimeout
    this.#isSessionTimeoutKept = isOwn && this.#isTimeoutKept && !given.has('idleTimeout')
    if (given.has('idleTimeout')) this.#sessionTimeout = idleTimeout || 0
    // writeTimeout replaces it for what is in flight.
    else if (isOwn && !this.#isTimeoutKept) this.#sessionTimeout = before
  }

  /** Timeouts of a listener, or of a route: the sweep has to notice the shortest in time. */
  noteLimits ({ readTimeout, writeTimeout }: RouteOptions): void {
    this.#shortest = Math.min(this.#shortest, readTimeout || Infinity, writeTimeout || Infinity)
  }

  /**
   * Starts the sweep; it does not keep the process alive. It starts with the first listener, or for requests that are injected or come
   * from another server. For these alone, it enforces no timeout, and ends with them.
   */
  start (isListening: boolean): void {
    this.#hasListener ||= isListening
    if (this.#sweeper !== undefined) return
    this.#sweeper = setLateInterval(due => { this.#sweep(due) }, checkIntervalOf(this.#shortest))
  }

  stop (): void {
    this.#sweeper?.()
  }

  #sweep (due: number): void {
    this.#connections.noteArrivals()
    this.#connections.forgetGone()
    this.#inFlight.checkAll()
    this.#handshakes.checkAll()
    this.#connections.noteReceived()
    attemptEach(this.#connections.receiving(), exchange => { this.#enforceRead(exchange, due) })
    attemptEach(this.#inFlight.exchanges, exchange => {
      // A hook may hold it, so that its handler has not opted it out yet.
      if (exchange.hasOptedOut) this.#inFlight.optOut(exchange)
      else if (exchange.wire !== 'open') this.#forgetSilent(exchange, due)
      else if (this.#hasListener) this.#enforceWrite(exchange, due)
    })
    if (this.#hasListener || this.#inFlight.unfinished.length > 0) return
    this.stop()
    this.#sweeper = undefined
  }

  /**
   * No client waits for the handler any more, and it shows no sign of its end. A drain would not wait longer for it, and otherwise each
   * abandoned long poll would count forever.
   */
  #forgetSilent (exchange: Exchange, due: number): void {
    if (exchange.isAtWork && !exchange.isHijacked) {
      exchange.silentSince = 0
      return
    }
    exchange.silentSince ||= due
    if (due - exchange.silentSince <= this.#options.drainTimeout) return
    this.#inFlight.leave(exchange)
    const entry = this.#inFlight.describe(exchange)
    this.#log.warn('A handler or its stream has not ended since its client disconnected or got an answer; it is no longer counted as in flight', entry)
  }

  #enforceRead (exchange: Exchange, due: number): void {
    // What was answered in the handler's place is being dropped, for a limited time. A whole answer that waits for the previous one
    // is sent first: to cut it would lose both.
    if (exchange.wire === 'orphaned' || exchange.isWaitingForTurn) return
    const limit = exchange.options.readTimeout ?? (this.#isRequestTimeoutKept && !exchange.isStream ? false : this.#read)
    // Its age must not stop with an early response.
    exchange.keepAge()
    if (limit === false || due - exchange.startedAt <= limit + exchange.received / 1_024 * READ_PER_KIB) return
    const error = new ReadTimeoutError(limit)
    if (exchange.wire !== 'finished') {
      this.#cuts.cut(exchange, error, 'readTimeout')
      return
    }
    // Its handler may still read the body.
    this.#cuts.name(exchange, error, 'readTimeout')
    exchange.abort()
  }

  #enforceWrite (exchange: Exchange, due: number): void {
    exchange.noteReads()
    if (exchange.isWatched) {
      exchange.keepWatching()
      return
    }
    const isKept = exchange.isStream ? this.#isSessionTimeoutKept : this.#isTimeoutKept
    const limit = exchange.options.writeTimeout ?? (isKept || exchange.isTimedByUser ? false : this.#options.writeTimeout)
    if (limit === false || exchange.isPausing) return
    // Code that took over the server's 'request' event serves it: the long polls of socket.io, for example.
    if (exchange.reply === undefined && !this.#fastify.server.listeners('request').includes(this.#fastify.routing)) return
    // A timer would cost more memory than the exchange.
    const { isStill } = exchange
    if (isStill && due - exchange.stillSince < limit) return
    const cut = () => { this.#cuts.cut(exchange, new WriteTimeoutError(limit), 'writeTimeout') }
    exchange.watch(limit, cut)
    if (isStill) cut()
  }
}
