// Every open connection of every listener: sockets and HTTP/2 sessions.

import type { FastifyError } from '@fastify/error'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Server } from 'node:net'
import type { PhaseClock } from '../lifecycle/phase.ts'
import type { InFlight } from '../requests/in-flight.ts'
import type { Exchange } from '../requests/exchange.ts'
import type { LongLived } from './spread.ts'
import { Server as HttpServer } from 'node:http'
import { Server as NetServer } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import { promisify } from 'node:util'
import { beforeCall, replaceMethod, trySet } from '../before-call.ts'
import { now, sleep, wholeTurn, within } from '../clock.ts'
import { Deferred } from '../deferred.ts'
import { ConnectionClosedError, ConnectionTimeoutError } from '../errors.ts'
import { isDisconnecting } from '../lifecycle/process.ts'
import { asksForWebSocket, closeSession, isHttp2Request, isUpgrade, onStreamRequest } from '../requests/exchange.ts'
import { arrivals, Connection, type Transport } from './connection.ts'
import { Ending, isOfClient } from './ending.ts'
import {
  ACCEPT_BACKLOG, AFTER_GOAWAY, FIRST_REQUEST, FLUSH_TURNS, HTTP2_READ_PAUSE, STEP_PART, STOP_CHECK
} from '../times.ts'
import { attempt, attemptEach, toError } from '../values.ts'

/** The flow-control window of an HTTP/2 session that its client has not opened, in bytes. */
const HTTP2_WINDOW = 65_535

interface PendingClose {
  server: Server
  callBack: (error?: Error) => void
}

export class Connections {
  readonly #inFlight: InFlight
  readonly #phase: PhaseClock
  readonly #servers = new Set<Server>()
  /** The connections that speak HTTP. */
  readonly #speaking = new Set<Connection>()
  /** The raw sockets below TLS. One without a secure socket above it has not completed its handshake. */
  readonly #beneathTls = new Set<Transport>()
  readonly #sessions = new Set<ServerHttp2Session>()
  /** How the connections that have been open since `disableKeepAlive()` end. */
  readonly #endings = new WeakMap<Connection, Ending>()
  /** The HTTP/2 requests on connections or sessions that code of this process has closed since then. */
  readonly #closedHere = new WeakSet<Exchange>()
  /** Sockets accepted since `disableKeepAlive()`. */
  readonly #late = new Set<Transport>()
  #accepted = 0
  #lastAccepted = -Infinity
  /** Whether Fastify's own listen() has opened the listeners. */
  isOpenedByFastify = false
  /** Whether new connections go to another process once this one has stopped listening. */
  isListenerShared = false
  /** The listen() of Fastify that is in progress. */
  listenInProgress: Promise<unknown> | undefined
  /** When `stopListening()` was called, on the clock of now(). */
  #stoppedAt = -Infinity
  /** The calls of a listener's `close()` that have not called back. */
  readonly #pendingCloses = new Set<PendingClose>()
  /** Whether `closeAll()` has been called. */
  #isClosing = false
  /** Whether `closeForcibly()` has been called. */
  #isClosedForcibly = false
  /** How many requests had arrived when `lastActivity` was set. */
  #arrivedBefore = 0
  /** The last of these, on the clock of now(): a request arrived; after `disableKeepAlive()`, a response was sent; listeners closed. */
  lastActivity = -Infinity
  #whenGone: (() => void) | undefined

  constructor (inFlight: InFlight, phase: PhaseClock) {
    this.#inFlight = inFlight
    this.#phase = phase
  }

  /**
   * Takes charge of a listener's connections.
   * @param onServerClose is called when any code calls `close()` of a listener that Fastify has opened, such as node:cluster in a worker
   * that its primary disconnects. `isAwaited`: whether a callback was given; it is called after the 'close' event and once the returned
   * promise has resolved
   */
  adopt (server: Server, onServerClose: (isAwaited: boolean) => Promise<unknown>): void {
    this.#servers.add(server)
    onStreamRequest(server, (request, response) => { this.arrive(request, response) })
    const isTls = server instanceof TlsServer
    // HTTP/2 servers have the property if they also allow HTTP/1.
    const allowsHttp1 = 'requestTimeout' in server
    const speaks = (socket: Transport & { alpnProtocol?: unknown }) => {
      const connection = new Connection(socket, this, !allowsHttp1 || socket.alpnProtocol === 'h2')
      this.#speaking.add(connection)
      arrivals.hold(this)
      if (this.#phase.current !== 'running') this.#endings.set(connection, new Ending(socket).watch())
    }
    server.on('connection', (socket: Transport) => {
      this.#accepted++
      if (this.#phase.current !== 'running') {
        this.#lastAccepted = now()
        this.#keep(socket, this.#late)
      }
      if (isTls) this.#keep(socket, this.#beneathTls)
      else speaks(socket)
    })
    server.on('secureConnection', speaks)
    server.on('close', () => { this.#releaseArrivals() })
    server.on('session', (session: ServerHttp2Session) => {
      this.#sessions.add(session)
      session.on('close', () => { this.#sessions.delete(session) })
      if (this.#phase.current !== 'running') this.#watchSession(session)
    })
    // If nothing listens, Node answers and closes the connection; a listener would keep it from that.
    if (server.eventNames().includes('clientError')) server.prependListener('clientError', (error: Error, socket: Transport) => {
      const connection = Connection.of(socket, this)
      if (connection !== undefined) this.#endings.get(connection)?.failed(error)
    })

    // That of an HTTP/2 server calls the close() of the class.
    server[Symbol.asyncDispose] = async () => { await promisify(server.close).call(server) }
    const { close } = server
    let again: typeof close | undefined
    let isReplaced = false
    const own: typeof close = callback => {
      // By a plugin that has replaced this function, and calls it once more, or too late.
      if (again !== undefined) return again(callback)
      if (this.#isClosedForcibly) return closeClosed(server, callback)
      // A server that the application itself listens with is closed as without the plugin; supertest does so after each request.
      if (!this.isOpenedByFastify || !server.listening) {
        close.call(server, callback)
        if (this.#isClosing) this.closeAll()
        return server
      }
      const isClosedByOthers = !this.hasStopped
      const closed = new Deferred<Error | undefined>()
      server.once('close', () => { closed.resolve(undefined) })
      // Tells the shutdown, and then the caller.
      const notify = async (listener: ((error?: Error) => void) | undefined, isAwaited: boolean, result: Promise<Error | undefined>) => {
        await onServerClose(isAwaited)
        await callLater(listener, result)
      }
      // Closing a closed server emits 'close' again, and Fastify also closes listeners that the shutdown has already closed.
      again = later => {
        // Other code does not know that the shutdown has closed it.
        const isKnown = isClosedByOthers || this.#phase.current === 'closed'
        void notify(later, typeof later === 'function', isKnown ? closed.promise.then(notRunning) : closed.promise)
        return server
      }
      trySet(server, 'close', again)
      const closeNow = () => {
        // Node's close() calls it: it destroys connections that are about to send a request, or have a response that is not flushed.
        const restore = replaceMethod(server, 'closeIdleConnections', () => {})
        try {
          // A replaced close() may call back although the server stays open.
          close.call(server, error => { closed.resolve(error) })
        } finally {
          restore()
        }
        if (this.#isClosing) this.closeAll()
      }
      // Closing resets the connections that have not been accepted.
      const closeLater = async () => {
        await this.acceptBacklog()
        closeNow()
      }
      if (isReplaced && this.hasStopped) closeLater().catch((thrown: unknown) => { closed.resolve(toError(thrown)) })
      else closeNow()
      // The shutdown's own call may come late, from an event, if another plugin has replaced close(), as @fastify/http-proxy does. The
      // callback of node:cluster must not wait: it disconnects the worker.
      const isAwaited = isClosedByOthers && typeof callback === 'function' && !isDisconnecting()
      void notify(callback, isAwaited && !this.#isClosePending(server), closed.promise)
      return server
    }
    trySet(server, 'close', own)
    server.once('listening', () => {
      isReplaced = server.close !== own
      if (isReplaced) this.#watchClose(server, onServerClose)
    })
  }

  /**
   * Another plugin has replaced `close()`. It may call Node's own later, from an event, where the context of the caller is lost, so the
   * caller is noted here.
   */
  #watchClose (server: Server, onServerClose: (isAwaited: boolean) => Promise<unknown>): void {
    const { close } = server
    trySet(server, 'close', (callback?: (error?: Error) => void) => {
      if (!this.isOpenedByFastify) return close.call(server, callback)
      const mayCallBack = onServerClose(typeof callback === 'function' && !isDisconnecting())
      return this.#callClose(server, close, result => { void callLater(callback, mayCallBack.then(() => result)) })
    })
  }

  #isClosePending (server: Server): boolean {
    return [...this.#pendingCloses].some(pending => pending.server === server)
  }

  /** Calls `close()`, and notes that it has not called back. */
  #callClose (server: Server, close: Server['close'], callBack: (error?: Error) => void): Server {
    const pending = { server, callBack }
    this.#pendingCloses.add(pending)
    try {
      return close.call(server, error => { if (this.#pendingCloses.delete(pending)) callBack(error) })
    } catch (thrown) {
      this.#pendingCloses.delete(pending)
      throw thrown
    }
  }

  #keep (socket: Transport, set: Set<Transport>): void {
    set.add(socket)
    socket.on('close', () => {
      set.delete(socket)
      this.#tellGone()
    })
  }

  closed (connection: Connection): void {
    this.#speaking.delete(connection)
    const ending = this.#endings.get(connection)
    if (connection.isHttp2 && ending !== undefined && ending.how([]) !== 'left') this.#closeHere(({ isSocketDestroyed }) => isSocketDestroyed)
    // In the order of arrival, for the log and the report.
    for (const exchange of [...connection.pipeline()].toReversed()) this.#inFlight.closed(exchange)
    this.#releaseArrivals()
    this.#tellGone()
  }

  #releaseArrivals (): void {
    if (this.#speaking.size === 0 && !this.isListening) arrivals.release(this)
  }

  #tellGone (): void {
    if (!this.isAnyOpen) this.#whenGone?.()
  }

  /** Fastify's listen() is called; `ended` resolves when that has ended. */
  listenCalled (isShared: boolean, ended: Promise<void>): void {
    this.isOpenedByFastify = true
    this.isListenerShared = isShared
    const inProgress = this.listenInProgress = Promise.all([this.listenInProgress, ended]).then(() => {
      if (this.listenInProgress === inProgress) this.listenInProgress = undefined
    })
  }

  /**
   * Notes, from now on, whether code of this process destroys the session. If the client leaves, Node destroys it with the error; if it has
   * sent GOAWAY before, only the socket has the error.
   */
  #watchSession (session: ServerHttp2Session): void {
    beforeCall(session, 'destroy', given => {
      const error = given ?? attempt(() => session.socket.errored)
      if (error == null || !isOfClient(error)) this.#closeHere(exchange => exchange.isOf(session))
    })
  }

  #closeHere (isClosed: (exchange: Exchange) => boolean): void {
    for (const exchange of this.#streams) if (isClosed(exchange)) this.#closedHere.add(exchange)
  }

  /**
   * After `disableKeepAlive()`: why this process has closed the connection of a request, before its answer. That is the timer of
   * `connectionTimeout`, `requestTimeout` or `server.timeout`, one that a handler has set, or any code, as with `closeAllConnections()`.
   */
  closingErrorOf (exchange: Exchange): FastifyError | undefined {
    const { connection, socket } = exchange
    if (socket === undefined) return this.#closedHere.has(exchange) ? new ConnectionClosedError() : undefined
    const ending = connection && this.#endings.get(connection)
    const how = (ending ?? new Ending(socket)).how(connection?.pipeline() ?? [exchange])
    if (how === 'expired') return new ConnectionTimeoutError()
    // The handler has hijacked the reply, and has written to the socket itself.
    const isOwn = how === 'ended' ? exchange.isHijacked && !exchange.hasBegun : exchange.isDestroyedByHandler
    return how === 'left' || isOwn ? undefined : new ConnectionClosedError()
  }

  /** Whether the socket is a connection of these listeners. */
  has (socket: Transport): boolean {
    return Connection.of(socket, this) !== undefined
  }

  /** Whether any listener accepts connections. */
  get isListening (): boolean {
    return [...this.#servers].some(server => server.listening)
  }

  get isAnyOpen (): boolean {
    return this.#speaking.size > 0 || this.#beneathTls.size > 0
  }

  /**
   * Until when a slow client has time for the first request on a connection that was accepted before the listener closed: nothing has
   * arrived on it yet, or its TLS handshake is in progress.
   */
  get unusedUntil (): number {
    const isUnused = this.#beneathTls.size > this.#speaking.size || [...this.#speaking].some(({ socket }) => socket.bytesRead === 0)
    return isUnused ? this.#stoppedAt + FIRST_REQUEST : -Infinity
  }

  /** Whether another request may arrive: a connection is open, or clients connect again after `Connection: close`. */
  get mayReceive (): boolean {
    return this.isAnyOpen || this.#lastAccepted > -Infinity
  }

  /** Resolves when the last open connection closes. */
  async gone (): Promise<void> {
    await new Promise<void>(resolve => { this.#whenGone = resolve })
  }

  /** Whether Node reports the arrival of such a request: not if it is injected, comes from another server, or asks for an upgrade. */
  reports (request: IncomingMessage): boolean {
    if (isUpgrade(request)) return false
    return isHttp2Request(request) || this.has(request.socket)
  }

  /** A request has arrived; on HTTP/1, in the order of the connection. */
  arrive (request: IncomingMessage, response: ServerResponse, known?: Connection): Exchange {
    const exchange = this.#inFlight.arrive(request, response)
    const connection = known ?? Connection.of(exchange.socket, this)
    exchange.connection = connection
    // No connection reports the end of an HTTP/2 stream, an injected request, or a request to a server that is not ours.
    if (connection === undefined) exchange.onClose(() => { this.#inFlight.closed(exchange) })
    else connection.push(exchange)
    if (this.#phase.current !== 'running') this.#arriveLate(exchange)
    return exchange
  }

  /**
   * After `disableKeepAlive()`, each HTTP/1 request is the last one on its connection until another one follows. Once a shared listener
   * is closed, requests on open connections are served, but not WebSockets: the preClose hooks, which close those, have run. The client
   * of an HTTP/2 stream that GOAWAY does not include may send the request again, so it is not served.
   */
  #arriveLate (exchange: Exchange): void {
    this.noteArrivals()
    if (exchange.isStream) {
      if (!exchange.isSessionClosing) return
      this.#leaveUnanswered(exchange)
      exchange.refuseStream()
      return
    }
    const { connection, previous, request } = exchange
    if (this.hasStopped && asksForWebSocket(request)) this.#inFlight.optOut(exchange)
    previous?.keepConnection()
    if (connection?.isEnding === true) this.#leaveUnanswered(exchange)
    exchange.endConnection()
  }

  /** No answer can be sent, so the gate lets it reach no handler. Its client may send it again over another connection. */
  #leaveUnanswered (exchange: Exchange): void {
    exchange.isUnanswerable = true
    this.#inFlight.optOut(exchange)
  }

  /** A response has been sent. Its client may send another request at once, perhaps over another connection. */
  responded (exchange: Exchange): void {
    exchange.connection?.responded(exchange)
    if (this.#phase.current === 'running') return
    this.lastActivity = now()
    // While draining, a connection is closed soon after it becomes idle, if the head of its last response was sent too early for
    // `Connection: close`: the client of an event stream would send its next request over it, and get a 503.
    if (this.#phase.current !== 'delaying' && !exchange.isLast) exchange.connection?.closeIfIdle()
  }

  /** Sets `lastActivity`. Not called for each request before the shutdown: reading the clock would cost too much. */
  noteArrivals (): void {
    if (this.#inFlight.arrived === this.#arrivedBefore) return
    this.#arrivedBefore = this.#inFlight.arrived
    this.lastActivity = now()
  }

  /** Forgets the connections of which no event has told the end. */
  forgetGone (): void {
    attemptEach(this.#speaking, connection => { connection.forgetIfGone() })
  }

  /** Notes how much of each request has arrived. */
  noteReceived (): void {
    attemptEach(this.#speaking, connection => { connection.noteReceived() })
    attemptEach(this.#streams, exchange => { if (exchange.isReceiving) exchange.noteReceived() })
  }

  /** The requests that are being received, whether they count or not; on HTTP/1, also those that have been answered. */
  * receiving (): Generator<Exchange> {
    for (const { newest } of this.#speaking) if (newest?.isReceiving === true) yield newest
    for (const exchange of this.#streams) if (exchange.isReceiving) yield exchange
  }

  /** The HTTP/2 requests that are not over. */
  get #streams (): Exchange[] {
    return this.#sessions.size === 0 ? [] : this.#inFlight.unfinished.filter(({ isStream }) => isStream)
  }

  /**
   * The shutdown starts: pending HTTP/1 responses become the last ones on their connections. Idle connections stay usable, because a
   * client may be sending a request, and so do HTTP/2 sessions: a stream that crosses GOAWAY is not served, and a proxy may not send that
   * request again.
   */
  disableKeepAlive (): void {
    this.noteArrivals()
    for (const session of this.#sessions) this.#watchSession(session)
    for (const connection of this.#speaking) {
      this.#endings.set(connection, new Ending(connection.socket).watch())
      connection.newest?.endConnection()
    }
  }

  /** Closes the HTTP/1 connections that are idle, unless a request arrives soon. */
  closeIdle (): void {
    for (const connection of this.#speaking) if (!connection.isHttp2) connection.closeIfIdle()
  }

  /** What sends GOAWAY to each HTTP/2 session. */
  longLived (): LongLived[] {
    return [...this.#sessions].map(session => [session, () => { closeSession(session) }])
  }

  /**
   * Accepts the connections in the kernel's backlog. The event loop accepts one per iteration, so the backlog is empty after a whole
   * iteration without any. If the process is blocked, it has up to twice the time.
   * @param pause for how long clients that have been rejected, and connect again, are waited for
   */
  async acceptBacklog (deadline = Infinity, pause = 0): Promise<void> {
    let left = Math.min(ACCEPT_BACKLOG, deadline - now())
    const end = Math.min(deadline, now() + 2 * ACCEPT_BACKLOG)
    let before: number
    do {
      const start = now()
      before = this.#accepted
      const wait = this.#late.size > 0 ? Math.max(0, Math.min(pause, left)) : 0
      if (wait > 0) await sleep(wait)
      await wholeTurn()
      left -= Math.min(now() - start, wait + ACCEPT_BACKLOG * STEP_PART)
    } while (this.#accepted !== before && left > 0 && now() < end)
  }

  /** Whether `stopListening()` has been called. */
  get hasStopped (): boolean {
    return this.#stoppedAt > -Infinity
  }

  /**
   * Accepts no more connections. The kernel resets those that it has taken since the event loop last looked. A listener that the
   * application itself has opened is left to Fastify's close.
   */
  stopListening (): void {
    if (!this.isOpenedByFastify) return
    // A connection accepted just before may be about to send its first request.
    this.#stoppedAt = this.lastActivity = now()
    for (const server of this.#servers) {
      // With a callback, as Fastify does: a replaced close() may rely on one.
      if (server.listening && !this.#isClosePending(server)) this.#callClose(server, server.close, () => {})
    }
  }

  /** Whether `close()` of a listener has been called, but has neither closed it nor called back: other code has replaced it. */
  get isStopping (): boolean {
    return [...this.#pendingCloses].some(({ server }) => server.listening)
  }

  /** Resolves when no listener is stopping, at most after the limit. */
  async whenStopped (limit: number): Promise<void> {
    const end = now() + limit
    // No event tells it. Most close() functions that are replaced wait for nothing, so the first checks are in the next turns.
    for (let checks = 0; this.isStopping && now() < end; checks++) {
      await (checks < STOP_CHECK.turns ? wholeTurn() : sleep(STOP_CHECK.milliseconds))
    }
  }

  /**
   * If a listener is still stopping: a `close()` that another plugin has replaced may wait until its WebSockets have closed, as that of
   * @fastify/http-proxy does, and clients have not answered.
   * @param isDrained whether upgrades that have not reached Fastify are included: they cannot be told from idle connections
   */
  destroyUpgraded (isDrained: boolean): void {
    if (!this.isStopping) return
    for (const { socket, isUpgraded, isIdle } of this.#speaking) if (isUpgraded || (isDrained && isIdle)) socket.destroy()
  }

  /**
   * Waits, at most until the deadline, for connections accepted late to send a first request, for responses to be read, and for
   * sessions that were sent GOAWAY to close.
   */
  async settle (deadline: number): Promise<void> {
    for (const session of this.#sessions) closeSession(session)
    await allClosed(this.#late, Math.min(deadline, this.#lastAccepted + FIRST_REQUEST))
    await allClosed(this.#busy(), deadline)
    await allClosed(this.#sessions, Math.min(deadline, now() + AFTER_GOAWAY))
  }

  /**
   * Waits, at most until the deadline, until clients have read what the kernel has of their HTTP/2 responses. If a connection is closed
   * before, the kernel resets it at the next window update of the client, which then loses the rest.
   */
  async whenRead (deadline: number): Promise<void> {
    // Only clients that have been sent so much that they must have opened their windows.
    let reading = [...this.#speaking].filter(({ isHttp2, socket }) => isHttp2 && Number(socket.bytesWritten) > HTTP2_WINDOW)
      .map(({ socket }) => socket)
    const closed = allClosed(reading, deadline)
    while (reading.length > 0 && now() < deadline) {
      const before = new Map(reading.map(socket => [socket, socket.bytesRead]))
      await within(Math.min(HTTP2_READ_PAUSE, deadline - now()), closed)
      reading = reading.filter(socket => !socket.destroyed && socket.bytesRead !== before.get(socket))
    }
  }

  /** Node writes the end of an HTTP/2 response, and each further response of a pipeline, in a later iteration of the event loop. */
  async flush (): Promise<void> {
    let isWaiting = this.#sessions.size > 0
    // A client that does not read is not waited for.
    for (let turns = 0; turns < FLUSH_TURNS; turns++) {
      const isQueued = [...this.#speaking].some(connection => [...connection.pipeline()].some(({ isReady }) => isReady))
      if (!isQueued && !isWaiting) return
      await wholeTurn()
      // TLS takes one more turn.
      isWaiting = isQueued
    }
  }

  /** The sockets and streams that are receiving a request or sending a response. */
  * #busy (): Generator<Closable> {
    for (const { socket, isBusy } of this.#speaking) if (isBusy) yield socket
    for (const exchange of this.#streams) {
      if (!exchange.isFinished && !exchange.isGone) yield { once: (_event, callback) => { exchange.onClose(callback) } }
    }
  }

  /** Closes every connection that speaks HTTP. Upgraded sockets stay open, so that their owners can close them. */
  closeAll (): void {
    this.#isClosing = true
    // A close() that another plugin has replaced may call the real one later; then this runs again.
    if (this.isListening) return
    for (const session of this.#sessions) session.destroy()
    // It also closes silent sockets and those that sent half a header. HTTP/2 servers lack the method, but not HTTP/1 connections.
    for (const server of this.#servers) HttpServer.prototype.closeAllConnections.call(server)
    for (const { socket, isHttp2 } of this.#speaking) if (isHttp2) socket.destroy()
    // What is left is upgraded. Below TLS, raw sockets of upgraded connections cannot be told from others, so they stay until destroy().
    if ([...this.#speaking].every(({ socket }) => socket.destroyed)) for (const socket of this.#beneathTls) socket.destroy()
  }

  /** Destroys the rest: upgraded sockets that their owners have not closed. */
  destroy (): void {
    if (this.isListening) return
    for (const { socket } of this.#speaking) socket.destroy()
    for (const socket of this.#beneathTls) socket.destroy()
  }

  /** A replaced `close()` does not end: closes the listeners and all connections, and calls back. */
  closeForcibly (): void {
    this.#isClosedForcibly = true
    for (const { server, callBack } of this.#pendingCloses) {
      if (server.listening) (Object.getPrototypeOf(server) as Server).close.call(server)
      trySet(server, 'close', (later?: (error?: Error) => void) => closeClosed(server, later))
      callBack()
    }
    this.#pendingCloses.clear()
    this.closeAll()
    this.destroy()
  }
}

/** What the callback throws is an uncaught error, as without the plugin. */
async function callLater (callback: unknown, result: Promise<Error | undefined>): Promise<void> {
  const error = await result
  if (typeof callback === 'function') process.nextTick(callback, error)
}

/** Node's own close() would emit 'close' again. */
function closeClosed (server: Server, callback: unknown): Server {
  void callLater(callback, notRunning())
  return server
}

/** Node's own error for a server that is closed again. */
async function notRunning (): Promise<Error | undefined> {
  return await new Promise(resolve => { new NetServer().close(resolve) })
}

interface Closable {
  once: (event: 'close', callback: () => void) => unknown
}

/** Waits until all are closed, at most until the deadline. */
async function allClosed (items: Iterable<Closable>, deadline: number): Promise<void> {
  const left = deadline - now()
  if (left <= 0) return
  // Not events.once(): it rejects if the socket emits an error first, but a reset is also a close.
  const all = Array.from(items, async item => { await new Promise<void>(resolve => { item.once('close', resolve) }) })
  if (all.length > 0) await within(left, Promise.all(all))
}
