// Every open socket and HTTP/2 session of every listener, and when somebody was last heard of on them.

import type { FastifyReply } from 'fastify'
import type { Server as HttpServer } from 'node:http'
import type { Http2ServerRequest, Http2Session, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import type { Connection } from './pipeline.ts'
import { Server as NetServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Server as TlsServer } from 'node:tls'
import * as pipeline from './pipeline.ts'
import { SocketList, unlink } from './socket-list.ts'
import { within } from './within.ts'

/** Who has connected since the last call has so many milliseconds to say what for. */
const JUST_CONNECTED = 500

/** For so many milliseconds, who has just been answered would have connected again. */
const NOBODY_CONNECTS = 50

/** New connections are accepted for so many milliseconds at the most before the listener closes. */
const LAST_ACCEPTED = 250

/** Who has been told to go, and has nothing to wait for, has so many milliseconds to do so. */
const TOLD_TO_GO = 100

/** Who has just been answered over keep-alive has so many milliseconds to ask again, and be refused rather than reset. */
const JUST_ANSWERED = 100

/** On HTTP/2 only where Fastify's onResponse does not tell. */
type OnGone = (reply: FastifyReply) => void

/** What Node's HTTP servers have to close idle connections with. */
interface KeepAliveServer {
  keepAliveTimeout: number
  keepAliveTimeoutBuffer: number
}

/** Of sockets that have one of their own: streams that are no sockets, or somebody else's. */
const ownDestroy = new WeakMap<Socket, Socket['_destroy']>()

export class Connections {
  readonly #servers = new Set<Server>()
  /** Those that were there at the last call, and those that came later, with the time at which the last of them did. */
  readonly #early = new SocketList<Connection>()
  readonly #late = new SocketList<Connection>()
  #lastConnected = -Infinity
  readonly #secured = new SocketList<Connection>()
  /** Of no listener of this instance's. */
  readonly #elsewhere = new WeakSet<Socket>()
  readonly #sessions = new Set<ServerHttp2Session>()
  /** Sockets that speak another protocol by now, as far as a route was asked for that. */
  readonly #upgraded = new WeakSet<Socket>()
  /** Streams that came since the last call: nobody counts them, and they are answered all the same. */
  readonly #lateStreams = new Set<ServerHttp2Stream>()
  #lastCalled = false
  #stopped = false
  #accepted = 0
  /** Responses until the last call, and how many of them the clock has been read for. */
  #answered = 0
  #answeredBefore = 0
  #lastHeard = -Infinity
  #whenGone: (() => void) | undefined
  readonly #onGone: OnGone
  readonly #onServerClose: () => void
  readonly #onSocketClose: (this: Connection) => void
  readonly #destroySocket: Socket['_destroy']

  /**
   * @param onGone is told of each reply whose client is gone before the reply was over
   * @param onServerClose is told when somebody closes a listener, as node:cluster does in a worker that its primary disconnects
   */
  constructor (onGone: OnGone, onServerClose: () => void) {
    this.#onServerClose = onServerClose
    this.#onGone = onGone
    const forget = (socket: Connection) => { this.#forget(socket) }
    // One listener per socket, not per response: a queued response of an aborted pipeline has no 'close'.
    const onSocketClose = function (this: Connection) {
      pipeline.abort(this, onGone)
      forget(this)
    }
    this.#onSocketClose = onSocketClose
    // It is added as late as it can be, and only where there is somebody to tell of: Node has a 'close' listener of its own,
    // and a second one would cost each idle connection some 200 bytes.
    this.#destroySocket = function (this: Connection, error, callback) {
      if (pipeline.isIdle(this)) onSocketClose.call(this)
      else this.on('close', onSocketClose)
      this._destroy = ownDestroy.get(this) ?? (Object.getPrototypeOf(this) as Socket)._destroy // oxlint-disable-line no-underscore-dangle
      this._destroy(error, callback) // oxlint-disable-line no-underscore-dangle
    }
  }

  /** Takes charge of a listener's connections. */
  adopt (server: Server): void {
    this.#servers.add(server)
    server.on('connection', (socket: Socket) => {
      this.#keepSocket(socket, this.#lastCalled ? this.#late : this.#early)
      this.#accepted++
      if (this.#lastCalled) this.#lastConnected = performance.now()
    })
    // A TLS server's sockets come twice: raw, so that one which never ends its handshake is known, too, and secured.
    server.on('secureConnection', (socket: Socket) => { this.#keepSocket(socket, this.#secured) })
    server.on('session', (session: ServerHttp2Session) => { keep(session, this.#sessions) })

    const { close } = server
    server.close = callback => {
      if (this.#stopped) return close.call(server, callback)
      // Not yet: http.Server's close() destroys connections that are about to ask, or whose response is not yet flushed.
      NetServer.prototype.close.call(server, callback)
      this.#onServerClose()
      return server
    }
  }

  #keepSocket (socket: Connection, list: SocketList<Connection>): void {
    list.add(socket)
    pipeline.prepare(socket)
    if (Object.hasOwn(socket, '_destroy')) ownDestroy.set(socket, socket._destroy) // oxlint-disable-line no-underscore-dangle
    socket._destroy = this.#destroySocket // oxlint-disable-line no-underscore-dangle
  }

  #forget (socket: Connection): void {
    unlink(socket)
    if (!this.anyOpen) this.#whenGone?.()
  }

  /** All, as they are on the wire. */
  get #sockets (): Connection[] {
    return [...this.#early, ...this.#late]
  }

  /** Whether any listener takes connections. */
  get listening (): boolean {
    return [...this.#servers].some(server => server.listening)
  }

  /** Whether any connection is open. */
  get anyOpen (): boolean {
    return !this.#early.isEmpty || !this.#late.isEmpty
  }

  /** Resolves once no connection is open. */
  async gone (): Promise<void> {
    await new Promise<void>(resolve => { this.#whenGone = resolve })
  }

  /**
   * A request has come in; tells whether it is among `replies()` from now on. On HTTP/2, Fastify's onResponse tells of
   * every ending that is still to come.
   */
  opened (reply: FastifyReply): boolean {
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) {
      const { stream } = raw as unknown as Http2ServerRequest
      if (stream.closed) this.#hasGone(reply)
      return false
    }
    const socket: Connection = raw.socket
    if (socket._destroy !== this.#destroySocket) { // oxlint-disable-line no-underscore-dangle
      this.#openedElsewhere(socket, reply)
      return false
    }
    pipeline.open(socket, reply)
    return true
  }

  /** Injected, or of a server that is somebody else's: its connection comes from no listener. Or that is about to close, or closed. */
  #openedElsewhere (socket: Connection, reply: FastifyReply): void {
    if (socket.closed) {
      this.#hasGone(reply)
      return
    }
    if (!this.#elsewhere.has(socket)) {
      if (pipeline.isPrepared(socket)) {
        this.#openedBeside(socket, reply)
        return
      }
      this.#elsewhere.add(socket)
      pipeline.prepare(socket)
      socket.on('close', this.#onSocketClose)
    }
    pipeline.open(socket, reply)
  }

  /** The pipeline is another instance's, to which some requests of the same connection are handed. */
  #openedBeside (socket: Socket, reply: FastifyReply): void {
    const gone = () => { this.#onGone(reply) }
    socket.on('close', gone)
    reply.raw.once('close', () => { socket.off('close', gone) })
  }

  /** Those under way on every open HTTP/1 connection. */
  * replies (): Generator<FastifyReply, void> {
    for (const list of [this.#early, this.#late, this.#secured]) {
      for (const socket of list) if (!pipeline.isIdle(socket)) yield * pipeline.repliesOf(socket)
    }
  }

  /** The client went while a hook ahead of the plugin's was at work: nothing tells of that any more. */
  #hasGone (reply: FastifyReply): void {
    // Not before the request has been counted.
    queueMicrotask(() => { this.#onGone(reply) })
  }

  /** An upgrade is asked for: if it comes to one, its owner closes the socket. */
  upgraded ({ request: { raw: { socket } } }: FastifyReply): void {
    this.#upgraded.add(socket)
  }

  /** A response is over; tells whether it was sent to its end, for Node says 'finish' after an abort, too. */
  ended (reply: FastifyReply): boolean {
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) return reply.raw.writableEnded
    const { socket } = raw
    pipeline.end(socket, reply)
    if (!this.#lastCalled) this.#answered++
    else if (!pipeline.saidClose(reply)) this.#lastHeard = performance.now()
    // Each request asks: what is to be called when it is destroyed tells sooner than `destroyed`, which looks at two states.
    return socket._destroy === this.#destroySocket || !socket.destroyed // oxlint-disable-line no-underscore-dangle
  }

  /**
   * When somebody last asked, or was answered so that he may ask again, as performance.now() counts. Until the last call
   * it is as exact as it is asked for often: a clock read per request would cost more than it is worth.
   */
  lastHeard (): number {
    if (this.#answered !== this.#answeredBefore) {
      this.#answeredBefore = this.#answered
      this.#lastHeard = performance.now()
    }
    return this.#lastHeard
  }

  /**
   * After the last call, a request has come in: the last one on its connection.
   * @param isWaitedFor whether its body is; for ever, if need be
   */
  closeAfter (reply: FastifyReply, isWaitedFor = true): void {
    this.#lastHeard = performance.now()
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) {
      const { stream } = raw as unknown as Http2ServerRequest
      keep(stream, this.#lateStreams)
      goAway(stream.session)
    } else {
      pipeline.sayClose(raw.socket, isWaitedFor)
    }
  }

  /** The shutdown starts: who is being answered is told that it is the last time. Idle connections stay usable. */
  lastCall (): void {
    this.lastHeard()
    this.#lastCalled = true
    for (const socket of [...this.#sockets, ...this.#secured]) pipeline.sayClose(socket)
    for (const session of this.#sessions) goAway(session)
  }

  /** From now on, a connection that goes idle is closed soon: one whose response had said nothing of it, a stream's. */
  closeIdle (): void {
    for (const server of this.#servers as Set<Partial<KeepAliveServer>>) {
      if (server.keepAliveTimeout === undefined) continue
      server.keepAliveTimeout = JUST_ANSWERED
      // Node 22 and later let it be set how much longer they wait; Node 20 always waits for a second more.
      server.keepAliveTimeoutBuffer = 0
    }
  }

  /**
   * Lets in who waits in the kernel's queue: closing the listener resets them. The event loop accepts one
   * connection a turn, so it is empty after a whole turn without any. While new ones keep coming, it waits for a moment
   * without any, within a limit.
   */
  async acceptWaiting (): Promise<void> {
    const end = performance.now() + LAST_ACCEPTED
    let before: number
    do {
      before = this.#accepted
      if (!this.#late.isEmpty) await sleep(NOBODY_CONNECTS)
      await wholeTurn()
    } while (this.#accepted !== before && performance.now() < end)
  }

  /** Takes no more connections. */
  stopListening (): void {
    this.#stopped = true
    for (const server of this.#servers) {
      // Not http.Server's close(): it destroys a connection whose response has ended and is not yet flushed.
      if (server.listening) NetServer.prototype.close.call(server)
    }
  }

  /**
   * Closes every connection that speaks HTTP. Nothing counted is in flight any more; what
   * else is being answered (a refusal, a probe) has `grace` milliseconds to be read, and who has only just
   * connected has a moment to say what for.
   * Upgraded sockets stay: their owners may still say goodbye.
   */
  async close (grace: number): Promise<void> {
    for (const session of this.#sessions) goAway(session)
    const moment = Math.min(grace, this.#lastConnected + JUST_CONNECTED - performance.now())
    if (moment > 0) await closeWithin(moment, [...this.#late])
    const busy = [...this.#sockets, ...this.#secured].filter(pipeline.isBusy)
    await closeWithin(grace, [...busy, ...this.#lateStreams])
    await closeWithin(Math.min(grace, TOLD_TO_GO), [...this.#sessions])

    // Unlike closeIdleConnections(), it reaches a silent socket, and one with half a header.
    for (const server of this.#servers) (server as Partial<HttpServer>).closeAllConnections?.()
    this.#destroyUnserved()
  }

  /** Destroys what closeAllConnections() knows nothing of: handshakes that have not ended, and all of HTTP/2. */
  #destroyUnserved (): void {
    const secured = new Map([...this.#secured].map(socket => [beneath(socket), socket]))
    for (const socket of this.#sockets) {
      const served = secured.get(socket) ?? socket
      // One that was handed in by a 'connection' event has none until it speaks HTTP/1.
      const { server } = served as Socket & { server?: Partial<HttpServer> | null }
      const isHandshaking = server instanceof TlsServer && served === socket
      const isLeftTo = !isHandshaking && (server?.closeAllConnections !== undefined || this.#upgraded.has(served))
      if (!isLeftTo) socket.destroy()
    }
  }

  /** Destroys what is left: upgraded sockets that nobody closed. */
  destroy (): void {
    for (const socket of this.#sockets) socket.destroy()
  }
}

/**
 * The event loop has looked once, from now on, at all that may have come in. The first immediate still belongs to the turn
 * under way, and a timer would come ahead of what has been waiting while this process was not let run.
 */
async function wholeTurn (): Promise<void> {
  await new Promise<void>(resolve => { setImmediate(() => { setImmediate(resolve) }) })
}

function keep<T extends ServerHttp2Session | ServerHttp2Stream> (item: T, set: Set<T>): void {
  set.add(item)
  item.on('close', () => { set.delete(item) })
}

/**
 * Sends GOAWAY, refuses new streams, so that their client may try them elsewhere, and closes behind those that it has.
 * Not goaway() with the highest stream first, as a notice: Node then drops new streams without a word.
 */
function goAway (session: Http2Session | undefined): void {
  if (session?.closed === false) session.close()
}

/** The raw socket under a secured one. Addresses would not tell: on a Unix socket nobody has one. */
function beneath (secured: Socket): Socket | undefined {
  return (secured as Socket & { _parent?: Socket })._parent // oxlint-disable-line no-underscore-dangle
}

/** Waits until all are closed, for so many milliseconds at the most. */
async function closeWithin (limit: number, items: ReadonlyArray<Socket | ServerHttp2Session | ServerHttp2Stream>): Promise<void> {
  if (items.length > 0) await within(limit, Promise.all(items.map(closed)))
}

/** Not events.once(): that rejects where the socket has an error first, and a reset is a close, too. */
async function closed (item: Socket | ServerHttp2Session | ServerHttp2Stream): Promise<void> {
  await new Promise<void>(resolve => { item.once('close', () => { resolve() }) })
}
