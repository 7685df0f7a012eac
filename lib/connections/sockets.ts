// Every open connection of every listener: sockets, and the sessions of HTTP/2.

import type { IncomingMessage, ServerResponse, Server as HttpServer } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { InFlight } from '../requests/in-flight.ts'
import type { Exchange } from '../requests/exchange.ts'
import { Server as NetServer } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import { now, setImmediate, sleep } from '../clock.ts'
import { within } from '../lifecycle/within.ts'
import { closeSession, onStreamRequest } from '../requests/exchange.ts'
import { Connection, watchArrivals } from './connection.ts'
import { ACCEPT_BACKLOG, AFTER_GOAWAY, DRAINING_KEEP_ALIVE, FIRST_REQUEST, RECONNECT_WINDOW } from '../times.ts'

/** What Node's HTTP servers have to close idle connections with. */
interface KeepAliveServer {
  keepAliveTimeout: number
  keepAliveTimeoutBuffer: number
}

export class Connections {
  readonly #inFlight: InFlight
  readonly #servers = new Set<Server>()
  /** The sockets that speak HTTP. */
  readonly #speaking = new Set<Connection>()
  /** The sockets beneath TLS: without one above it, such a socket has not ended its handshake. */
  readonly #beneathTls = new Set<Socket>()
  readonly #sessions = new Set<ServerHttp2Session>()
  /** Sockets that speak another protocol by now, if a route was asked for that. */
  readonly #upgraded = new WeakSet<Socket>()
  /** Sockets accepted since the last call. */
  readonly #late = new Set<Socket>()
  #accepted = 0
  #lastAccepted = -Infinity
  #isLastCalled = false
  #isStopped = false
  /** Requests so far, and how many of them the clock has been read for. */
  #arrived = 0
  #arrivedBefore = 0
  #lastActivity = -Infinity
  #whenGone: (() => void) | undefined

  constructor (inFlight: InFlight) {
    this.#inFlight = inFlight
  }

  /**
   * Takes charge of a listener's connections.
   * @param onServerClose is told when other code closes the listener, as node:cluster does in a worker that its primary disconnects
   */
  adopt (server: Server, onServerClose: () => void): void {
    this.#servers.add(server)
    watchArrivals()
    onStreamRequest(server, (request, response) => { this.arrive(request, response) })
    const isTls = server instanceof TlsServer
    server.on('connection', (socket: Socket) => {
      this.#accept(socket)
      if (isTls) this.#keep(socket, this.#beneathTls)
      else this.#speaking.add(new Connection(socket, this))
    })
    if (isTls) server.on('secureConnection', (socket: Socket) => { this.#speaking.add(new Connection(socket, this)) })
    server.on('session', (session: ServerHttp2Session) => {
      this.#sessions.add(session)
      session.on('close', () => { this.#sessions.delete(session) })
    })

    const { close } = server
    server.close = callback => {
      if (this.#isStopped) return close.call(server, callback)
      // Not yet: http.Server's close() destroys connections that are about to send a request, or whose response is not flushed.
      NetServer.prototype.close.call(server, callback)
      // Fastify closes its second listener for `localhost` alone as the first one is unref()ed.
      if (!this.isListening) onServerClose()
      return server
    }
  }

  #accept (socket: Socket): void {
    this.#accepted++
    if (!this.#isLastCalled) return
    this.#lastAccepted = now()
    this.#keep(socket, this.#late)
  }

  #keep (socket: Socket, set: Set<Socket>): void {
    set.add(socket)
    socket.on('close', () => {
      set.delete(socket)
      this.#tellGone()
    })
  }

  /** A connection is closed. */
  closed (connection: Connection): void {
    this.#speaking.delete(connection)
    for (const exchange of connection.pipeline()) this.#inFlight.closed(exchange)
    this.#tellGone()
  }

  #tellGone (): void {
    if (!this.isAnyOpen) this.#whenGone?.()
  }

  /** Whether any listener accepts connections. */
  get isListening (): boolean {
    return [...this.#servers].some(server => server.listening)
  }

  /** Whether any connection is open. */
  get isAnyOpen (): boolean {
    return this.#speaking.size > 0 || this.#beneathTls.size > 0
  }

  /** Resolves once no connection is open. */
  async gone (): Promise<void> {
    await new Promise<void>(resolve => { this.#whenGone = resolve })
  }

  /** A request has arrived; on HTTP/1, in the order of its connection. */
  arrive (request: IncomingMessage, response: ServerResponse, known?: Connection): Exchange {
    this.#arrived++
    const exchange = this.#inFlight.arrive(request, response)
    const connection = known ?? Connection.of(exchange)
    exchange.connection = connection
    // Of a stream of HTTP/2, an injected request, or one of a server that is not ours, no connection tells the end.
    if (connection === undefined) exchange.onClose(() => { this.#inFlight.closed(exchange) })
    else connection.push(exchange)
    if (this.#isLastCalled) this.#arriveLate(exchange)
    return exchange
  }

  /** After the last call, each request is the last one on its connection, until another one follows it. */
  #arriveLate (exchange: Exchange): void {
    this.#lastActivity = now()
    exchange.previous?.keepConnection()
    this.#endWhenReceived(exchange)
  }

  /** An upgrade is asked for: if it comes to one, its owner closes the socket. */
  upgrade (socket: Socket | undefined): void {
    // An injected one has none.
    if (socket !== undefined) this.#upgraded.add(socket)
  }

  /** A response has been sent. If it did not say `Connection: close`, its client may ask again. */
  responded (exchange: Exchange): void {
    exchange.connection?.responded(exchange)
    if (this.#isLastCalled && exchange.response.shouldKeepAlive) this.#lastActivity = now()
  }

  /**
   * When a request last arrived, or was answered so that another one may follow, as now() counts. Until the last
   * call it is as exact as it is asked for often.
   */
  get lastActivity (): number {
    if (this.#arrived !== this.#arrivedBefore) {
      this.#arrivedBefore = this.#arrived
      this.#lastActivity = now()
    }
    return this.#lastActivity
  }

  /** The response to this request is the last one on its connection, whether its body is in or not. */
  endAfter (exchange: Exchange): void {
    if (this.#isNewest(exchange)) exchange.endConnection()
  }

  /** The newest response on the connection of this request is the last one. */
  endConnectionOf (exchange: Exchange): void {
    exchange.connection?.newest?.endConnection()
  }

  /** The requests on the connection of this one that are not finished; on HTTP/2, where each is on its own, none. */
  sharing (exchange: Exchange): Exchange[] {
    return [...exchange.connection?.pipeline() ?? []].filter(({ isFinished }) => !isFinished)
  }

  /** Node closes a connection at once after a response that says so, even if the request's body is still on its way. */
  #endWhenReceived (exchange: Exchange): void {
    if (exchange.needsConnection) exchange.request.once('end', () => { this.endAfter(exchange) })
    else this.endAfter(exchange)
  }

  /** Of a pipeline, only the last response may say `Connection: close`: Node drops what follows one that does. */
  #isNewest (exchange: Exchange): boolean {
    return (exchange.connection?.newest ?? exchange) === exchange
  }

  /** The shutdown starts: responses in flight are the last ones on their connections. Idle connections stay usable. */
  disableKeepAlive (): void {
    void this.lastActivity
    this.#isLastCalled = true
    for (const { newest } of this.#speaking) if (newest !== undefined) this.#endWhenReceived(newest)
    for (const session of this.#sessions) closeSession(session)
  }

  /** From now on, a connection that becomes idle is closed soon: one whose response had been begun earlier, a stream's. */
  closeIdle (): void {
    for (const server of this.#servers as Set<Partial<KeepAliveServer>>) {
      if (server.keepAliveTimeout === undefined) continue
      server.keepAliveTimeout = DRAINING_KEEP_ALIVE
      // Node 22 and later let it be set how much longer they wait; Node 20 always waits for a second more.
      server.keepAliveTimeoutBuffer = 0
    }
  }

  /**
   * Accepts the connections that wait in the kernel's queue, because to close the listener resets them. The event loop
   * accepts one connection a turn, so the queue is empty after a whole turn without any. While new ones keep coming, it
   * waits for a moment without any.
   */
  async acceptBacklog (deadline: number): Promise<void> {
    const end = Math.min(deadline, now() + ACCEPT_BACKLOG)
    let before: number
    do {
      before = this.#accepted
      if (this.#late.size > 0) await sleep(RECONNECT_WINDOW)
      await wholeTurn()
    } while (this.#accepted !== before && now() < end)
  }

  /** Accepts no more connections. */
  stopListening (): void {
    this.#isStopped = true
    for (const server of this.#servers) {
      // Not http.Server's close(): it destroys a connection whose response has ended and is not yet flushed.
      if (server.listening) NetServer.prototype.close.call(server)
    }
  }

  /**
   * Waits, until the deadline at the latest, for what may still come or go on connections: a first request on one that was
   * accepted late, responses that are being read, sessions that have been sent GOAWAY.
   */
  async settle (deadline: number): Promise<void> {
    for (const session of this.#sessions) closeSession(session)
    await allClosed(this.#late, Math.min(deadline, this.#lastAccepted + FIRST_REQUEST))
    await allClosed(this.#busy(), deadline)
    await allClosed(this.#sessions, Math.min(deadline, now() + AFTER_GOAWAY))
  }

  /** The sockets and streams on which a request is received or a response is sent. */
  * #busy (): Generator<Closable> {
    for (const { socket, isBusy } of this.#speaking) if (isBusy && !this.#upgraded.has(socket)) yield socket
    if (this.#sessions.size === 0) return
    for (const exchange of [...this.#inFlight.exchanges, ...this.#inFlight.uncounted]) {
      if (!exchange.isFinished && !exchange.isGone) yield { once: (_event, callback) => { exchange.onClose(callback) } }
    }
  }

  /** Closes every connection that speaks HTTP. Upgraded sockets stay: their owners may still say goodbye. */
  closeAll (): void {
    for (const session of this.#sessions) session.destroy()
    let areAllHttp1 = true
    for (const server of this.#servers as Set<Partial<HttpServer>>) {
      // Unlike closeIdleConnections(), it reaches a silent socket, and one with half a header.
      if (typeof server.closeAllConnections === 'function') server.closeAllConnections()
      else areAllHttp1 = false
    }
    let isAnyLeft = false
    for (const { socket, newest } of this.#speaking) {
      // Of HTTP/1, only upgraded sockets are left; servers of HTTP/2 leave their sockets to us.
      if (!areAllHttp1 && !this.#isLeftToOwner(socket, newest)) socket.destroy()
      isAnyLeft ||= !socket.destroyed
    }
    // One that is beneath an upgraded socket does not show it; it is destroyed at last.
    if (!isAnyLeft) for (const socket of this.#beneathTls) socket.destroy()
  }

  /** On a server of HTTP/2 that allows HTTP/1, a socket without a request may have been upgraded past Fastify. */
  #isLeftToOwner (socket: Socket, newest: Exchange | undefined): boolean {
    return this.#upgraded.has(socket) || (newest === undefined && 'encrypted' in socket)
  }

  /** Destroys what is left: upgraded sockets that their owners have not closed. */
  destroy (): void {
    for (const { socket } of this.#speaking) socket.destroy()
    for (const socket of this.#beneathTls) socket.destroy()
  }
}

/**
 * The event loop has looked once, from now on, at all that may have come in. The first immediate still belongs to the turn
 * under way, and a timer would come ahead of what has been waiting while this process was not let run.
 */
async function wholeTurn (): Promise<void> {
  await new Promise<void>(resolve => { setImmediate(() => { setImmediate(resolve) }) })
}

interface Closable {
  once: (event: 'close', callback: () => void) => unknown
}

/** Waits until all are closed, or until the deadline. */
async function allClosed (items: Iterable<Closable>, deadline: number): Promise<void> {
  const left = deadline - now()
  if (left <= 0) return
  // Not events.once(): that rejects if the socket has an error first, and a reset is a close, too.
  const all = Array.from(items, async item => { await new Promise<void>(resolve => { item.once('close', resolve) }) })
  if (all.length > 0) await within(left, Promise.all(all))
}
