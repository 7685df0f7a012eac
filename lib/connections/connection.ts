// A connection, and the HTTP/1 requests pending on it. A client may send several requests without waiting for answers, and gets
// the answers in the same order.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Exchange } from '../requests/exchange.ts'
import type { Connections } from './sockets.ts'
import { trySet } from '../before-call.ts'
import { setLateTimeout } from '../clock.ts'
import { dropBody } from '../requests/body.ts'
import { Subscription } from '../subscription.ts'
import { DRAINING_KEEP_ALIVE } from '../times.ts'

type SocketMember = 'setTimeout' | 'timeout' | 'destroySoon' | 'bytesRead' | 'bytesWritten' | 'pending'

/** What a connection is made over: a socket, or any stream that is passed to the 'connection' event of a server. */
export interface Transport extends Duplex, Partial<Pick<Socket, SocketMember>> {
  readonly errored: NodeJS.ErrnoException | null
}

/**
 * By socket, for all instances. Not a field of the socket: V8 makes an object with many fields slow if a computed name, such as
 * a symbol, is added, and Node accesses a socket dozens of times per request.
 */
const connections = new Map<Transport, Connection>()

export class Connection {
  readonly socket: Transport
  readonly owner: Connections
  /** Whether it speaks HTTP/2. Node closes all HTTP/1 connections of a server, but not these. */
  readonly isHttp2: boolean
  /** The newest request that still needs the connection. `Exchange.previous` is the one before it. */
  newest: Exchange | undefined = undefined
  /** Whether a request has arrived, or was being received, since `noteReceived()`. */
  #isReceiving = false
  /** Whether a request has arrived behind a response that has said that it is the last one. */
  #hasRequestBehindLast = false
  #isLingering = false
  #bytesRead = 0

  constructor (socket: Transport, owner: Connections, isHttp2: boolean) {
    this.socket = socket
    this.owner = owner
    this.isHttp2 = isHttp2
    const before = connections.get(socket)
    connections.set(socket, this)
    // A socket may be passed to a server again, or to the server of another instance.
    before?.owner.closed(before)
    // Ahead of Node's listener, which destroys requests and, from Node 24 on, queued responses: perhaps a handler has destroyed them.
    socket.prependListener('close', onSocketClose)
  }

  /** The connection of a socket, if this owner has accepted it: another instance may pass a request on. */
  static of (socket: Transport | undefined, owner: Connections): Connection | undefined {
    const connection = socket === undefined ? undefined : connections.get(socket)
    return connection?.owner === owner ? connection : undefined
  }

  /** Adds the next request on this connection. */
  push (exchange: Exchange): void {
    const { newest } = this
    if (newest?.isLast === true) this.#hasRequestBehindLast = true
    // Not a finished one: each would keep the one before it.
    if (newest !== undefined && !newest.isFinished) exchange.previous = newest
    this.newest = exchange
    this.#isReceiving = true
  }

  /** A request answered before its body is received still needs the connection: closing it would reset it. */
  responded (exchange: Exchange): void {
    if (this.newest === exchange && exchange.request.complete) this.newest = undefined
  }

  /** Whether the newest request can get no answer. Node parses what arrives until the connection is closed. */
  get isEnding (): boolean {
    return this.#hasRequestBehindLast || this.socket.writableEnded
  }

  /** Closes it if nothing arrives for a time. Node's keepAliveTimeout would lose a request that waits while the event loop is blocked. */
  closeIfIdle (): void {
    const { socket } = this
    const { bytesRead } = socket
    setLateTimeout(() => { if (!this.#isInUse && socket.bytesRead === bytesRead) socket.destroy() }, DRAINING_KEEP_ALIVE).unref()
  }

  /** Not only `newest`: Fastify may have answered that without an onResponse hook, or before its whole body. */
  get #isInUse (): boolean {
    const { newest } = this
    return newest !== undefined && !(newest.isFinished && newest.request.complete)
  }

  /** Whether a request is being received or answered, unless it asks for an upgrade: then the socket's new owner closes it. */
  get isBusy (): boolean {
    return this.#isInUse && this.newest?.isUpgrade !== true
  }

  /** Whether it has been used, and is not in use for HTTP/1. */
  get isIdle (): boolean {
    return !this.isHttp2 && !this.#isInUse && this.socket.bytesRead !== 0
  }

  /** Whether other code has taken the connection for another protocol, at the request of its client. */
  get isUpgraded (): boolean {
    return this.newest?.isUpgrade === true && this.newest.isHijacked
  }

  /** Forgets it if no event has told its end: it has been passed to another process, or closed without the plugin's listener. */
  forgetIfGone (): void {
    const { socket } = this
    if (socket.closed || (!socket.destroyed && socket.pending === true)) onSocketClose.call(socket)
  }

  /**
   * Counts all bytes that have arrived since the last call for the newest request. Some may belong to the requests before it: reading
   * `bytesRead` as each request arrives would take too long.
   */
  noteReceived (): void {
    if (!this.#isReceiving) return
    const { bytesRead = 0 } = this.socket
    this.#isReceiving = this.newest?.isReceiving === true
    if (this.newest !== undefined) this.newest.received += bytesRead - this.#bytesRead
    this.#bytesRead = bytesRead
  }

  /**
   * Node closes the connection when its last response has been written. If the request is still arriving, that would reset it,
   * perhaps before the client has read the response. So it is half-closed, and the rest of the request is dropped.
   */
  linger (): void {
    if (this.#isLingering) return
    this.#isLingering = true
    const { socket } = this
    // As Node does with a stream that lacks the method.
    const { destroySoon = socket.end } = socket
    trySet(socket, 'destroySoon', () => {
      const { newest } = this
      if (newest?.isReceiving !== true) {
        destroySoon.call(socket)
        return
      }
      socket.end()
      // Once a request has been answered, Node does not close it with its connection.
      socket.once('close', dropBody(newest.request, () => { socket.destroy() }))
    })
  }

  /** The pending requests, from the newest to the oldest. */
  * pipeline (): Generator<Exchange> {
    for (let exchange = this.newest; exchange !== undefined; exchange = exchange.previous) yield exchange
  }
}

/** One listener per connection, not per response: a queued response of an aborted pipeline emits no 'close'. */
function onSocketClose (this: Transport): void {
  const connection = connections.get(this)
  if (!connections.delete(this)) return
  connection?.owner.closed(connection)
}

/** Node publishes each HTTP/1 request, with its socket, on this channel before all listeners and hooks. */
export const arrivals = new Subscription('http.server.request.start', message => {
  const { request, response, socket } = message as { request: IncomingMessage, response: ServerResponse, socket: Transport }
  const connection = connections.get(socket)
  connection?.owner.arrive(request, response, connection)
})
