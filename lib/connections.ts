// Every open socket and HTTP/2 session of every listener, and which responses are under way on them.

import type { FastifyReply } from 'fastify'
import type { Server as HttpServer } from 'node:http'
import type { Http2ServerRequest, Http2Session, ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import type { Server, Socket } from 'node:net'
import { Server as NetServer } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { Server as TlsServer } from 'node:tls'
import { within } from './within.ts'

/** On a socket: its replies that are not over, from the oldest to the newest; null while it is idle. */
const kOldest = Symbol('graceful.oldest')
const kNewest = Symbol('graceful.newest')
/** On a reply: the one that came behind it on the same socket (a pipeline). */
const kNext = Symbol('graceful.next')

/** Who has connected so many milliseconds ago is about to send a request. */
const JUST_CONNECTED = 100

/** For so many milliseconds, who has just been answered would have connected again. */
const NOBODY_CONNECTS = 50

/** New connections are accepted for so many milliseconds at the most before the listener closes. */
const LAST_ACCEPTED = 250

/** Who has been told to go, and has nothing to wait for, has so many milliseconds to do so. */
const TOLD_TO_GO = 100

/** Who has just been answered over keep-alive has so many milliseconds to ask again, and be refused rather than reset. */
const JUST_ANSWERED = 100

interface Linked extends FastifyReply {
  [kNext]?: Linked
}

/** What Node's HTTP servers have to close idle connections with. */
interface KeepAliveServer {
  keepAliveTimeout: number
  keepAliveTimeoutBuffer: number
}

interface Connection extends Socket {
  [kOldest]?: Linked | null | undefined
  [kNewest]?: Linked | null
}

export class Connections {
  readonly #servers = new Set<Server>()
  readonly #sockets = new Set<Connection>()
  readonly #secured = new Set<Connection>()
  readonly #sessions = new Set<ServerHttp2Session>()
  /** Sockets that speak another protocol by now, as far as a route was asked for that. */
  readonly #upgraded = new WeakSet<Socket>()
  /** Streams that came since the last call: nobody counts them, and they are answered all the same. */
  readonly #lateStreams = new Set<ServerHttp2Stream>()
  /** Who has connected since the last call, and when. */
  readonly #late = new Map<object, number>()
  #lastCalled = false
  #stopped = false
  #accepted = 0
  #whenGone: (() => void) | undefined
  readonly #onServerClose: () => void
  readonly #onSocketClose: (this: Connection) => void

  /**
   * @param onGone is told of each reply whose client is gone before the reply was over (HTTP/1)
   * @param onServerClose is told when somebody closes a listener, as node:cluster does in a worker that its primary disconnects
   */
  constructor (onGone: (reply: FastifyReply) => void, onServerClose: () => void) {
    this.#onServerClose = onServerClose
    // One listener per socket, not per response: a queued response of an aborted pipeline has no 'close'.
    this.#onSocketClose = function () {
      for (let reply = this[kOldest]; reply != null; reply = reply[kNext]) onGone(reply)
      this[kOldest] = null
      this[kNewest] = null
    }
  }

  /** Takes charge of a listener's connections. */
  adopt (server: Server): void {
    this.#servers.add(server)
    server.on('connection', (socket: Socket) => {
      this.#keep(socket, this.#sockets)
      this.#accepted++
      if (this.#lastCalled) this.#late.set(socket, performance.now())
    })
    // A TLS server's sockets come twice: raw, so that one which never ends its handshake is known, too, and secured.
    server.on('secureConnection', (socket: Socket) => { this.#keep(socket, this.#secured) })
    server.on('session', (session: ServerHttp2Session) => { this.#keep(session, this.#sessions) })

    const { close } = server
    server.close = callback => {
      if (this.#stopped) return close.call(server, callback)
      // Not yet: http.Server's close() destroys connections that are about to ask, or whose response is not yet flushed.
      NetServer.prototype.close.call(server, callback)
      this.#onServerClose()
      return server
    }
  }

  #keep<T extends Socket | ServerHttp2Session | ServerHttp2Stream> (item: T, set: Set<T>): void {
    set.add(item)
    item.on('close', () => {
      set.delete(item)
      this.#late.delete(item)
      if (this.#sockets.size === 0) this.#whenGone?.()
    })
  }

  /** Whether any listener takes connections. */
  get listening (): boolean {
    return [...this.#servers].some(server => server.listening)
  }

  /** How many connections are open. */
  get open (): number {
    return this.#sockets.size
  }

  /** Resolves once no connection is open. */
  async gone (): Promise<void> {
    await new Promise<void>(resolve => { this.#whenGone = resolve })
  }

  /** A request has come in. On HTTP/2, Fastify's onResponse tells of every ending; nothing to do. */
  opened (reply: Linked): void {
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) return
    const socket: Connection = raw.socket
    const newest = socket[kNewest]
    if (newest === undefined) socket.on('close', this.#onSocketClose)
    if (newest == null) socket[kOldest] = reply
    else newest[kNext] = reply
    socket[kNewest] = reply
  }

  /** An upgrade is asked for: if it comes to one, its owner closes the socket. */
  upgraded ({ request: { raw: { socket } } }: FastifyReply): void {
    this.#upgraded.add(socket)
  }

  /**
   * A response is over; tells whether it was sent to its end, for Node says 'finish' after an abort, too.
   * Those of one socket end in the order in which they came.
   */
  ended (reply: Linked): boolean {
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) return reply.raw.writableEnded
    const socket: Connection = raw.socket
    if (socket[kNewest] === reply) {
      // Do not keep it in memory for as long as the connection lives.
      socket[kNewest] = null
      socket[kOldest] = null
    } else if (socket[kOldest] === reply) {
      socket[kOldest] = reply[kNext]
    }
    return !socket.destroyed
  }

  /**
   * The last exchange on its connection: the response says `Connection: close`, or the session GOAWAY.
   * Of a pipeline only the last response may say it: Node drops what comes behind one that does.
   */
  closeAfter (reply: Linked): void {
    const { raw } = reply.request
    if (raw.httpVersionMajor === 2) {
      const { stream } = raw as unknown as Http2ServerRequest
      this.#keep(stream, this.#lateStreams)
      goAway(stream.session)
    } else {
      sayClose(raw.socket)
    }
  }

  /** The shutdown starts: who is being answered is told that it is the last time. Idle connections stay usable. */
  lastCall (): void {
    this.#lastCalled = true
    for (const socket of [...this.#sockets, ...this.#secured]) sayClose(socket)
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
   * connection a turn. While new ones keep coming, it waits for a moment without any, within a limit.
   */
  async acceptWaiting (): Promise<void> {
    const end = performance.now() + LAST_ACCEPTED
    await nextTurn()
    if (this.#late.size === 0) return
    let before = -1
    while (this.#accepted !== before && performance.now() < end) {
      before = this.#accepted
      await sleep(NOBODY_CONNECTS)
    }
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
    const justNow = performance.now() - JUST_CONNECTED
    const late = [...this.#sockets].filter(socket => (this.#late.get(socket) ?? 0) > justNow)
    await within(Math.min(grace, JUST_CONNECTED), Promise.all(late.map(closed)))
    const busy = [...this.#sockets, ...this.#secured].filter(socket => socket[kNewest] != null)
    await within(grace, Promise.all([...busy, ...this.#lateStreams].map(closed)))
    for (const session of this.#sessions) goAway(session)
    await within(Math.min(grace, TOLD_TO_GO), Promise.all([...this.#sessions].map(closed)))

    // Unlike closeIdleConnections(), it reaches a silent socket, and one with half a header.
    for (const server of this.#servers) (server as Partial<HttpServer>).closeAllConnections?.()
    this.#destroyUnserved()
  }

  /** Destroys what closeAllConnections() knows nothing of: handshakes that have not ended, and all of HTTP/2. */
  #destroyUnserved (): void {
    const secured = new Map([...this.#secured].map(socket => [peer(socket), socket]))
    for (const socket of this.#sockets) {
      const { server } = socket as Socket & { server: Partial<HttpServer> }
      const served = server instanceof TlsServer ? secured.get(peer(socket)) : socket
      const isLeftTo = served !== undefined && (server.closeAllConnections !== undefined || this.#upgraded.has(served))
      if (!isLeftTo) socket.destroy()
    }
  }

  /** Destroys what is left: upgraded sockets that nobody closed. */
  destroy (): void {
    for (const socket of this.#sockets) socket.destroy()
  }
}

function sayClose (socket: Connection): void {
  for (let reply = socket[kOldest]; reply != null; reply = reply[kNext]) {
    if (reply.raw.headersSent) continue
    if (reply === socket[kNewest]) reply.raw.setHeader('connection', 'close')
    else reply.raw.removeHeader('connection')
  }
}

/**
 * Sends GOAWAY, refuses new streams, so that their client may try them elsewhere, and closes behind those that it has.
 * Not goaway() with the highest stream first, as a notice: Node then drops new streams without a word.
 */
function goAway (session: Http2Session | undefined): void {
  if (session?.closed === false) session.close()
}

/** What tells a raw socket from others, and goes for the secured one on top of it, too. */
function peer ({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`
}

/** Not events.once(): that rejects where the socket has an error first, and a reset is a close, too. */
async function closed (item: Socket | ServerHttp2Session | ServerHttp2Stream): Promise<void> {
  await new Promise<void>(resolve => { item.once('close', () => { resolve() }) })
}
