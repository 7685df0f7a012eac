// A connection of HTTP/1, with the requests that are under way on it. A client may send several without waiting for answers,
// and is answered in their order.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Exchange } from '../requests/exchange.ts'
import { subscribe } from 'node:diagnostics_channel'

/**
 * By their sockets, those of all instances. Not a field of the socket: V8 turns an object that has many of them into a slow
 * one when a computed name, a symbol's for instance, is added, and Node reads and writes a socket some dozens of times a request.
 */
const connections = new Map<Socket, Connection>()

/** What the connections of an instance tell. */
export interface ConnectionOwner {
  arrive: (request: IncomingMessage, response: ServerResponse, connection: Connection) => void
  closed: (connection: Connection) => void
}

export class Connection {
  readonly socket: Socket
  readonly owner: ConnectionOwner
  /** Its newest request, as long as that needs the connection. Each request knows the one ahead of it. */
  newest: Exchange | undefined = undefined

  constructor (socket: Socket, owner: ConnectionOwner) {
    this.socket = socket
    this.owner = owner
    const before = connections.get(socket)
    connections.set(socket, this)
    // A socket may be handed to a server again, or to that of another instance.
    before?.owner.closed(before)
    socket.on('close', onSocketClose)
  }

  /** The connection of a request, if it is one of HTTP/1 that a listener of ours accepted. */
  static of ({ socket }: Exchange): Connection | undefined {
    return socket === undefined ? undefined : connections.get(socket)
  }

  /** The next request, in the order of the connection. */
  push (exchange: Exchange): void {
    const { newest } = this
    if (newest !== undefined && !newest.isFinished) exchange.previous = newest
    this.newest = exchange
  }

  /** Answered before its body was in, a request still needs its connection: to close that now would reset it. */
  responded (exchange: Exchange): void {
    if (this.newest === exchange && exchange.request.complete) this.newest = undefined
  }

  /** Whether a request is being received or answered. */
  get isBusy (): boolean {
    return this.newest !== undefined && !(this.newest.isFinished && this.newest.request.complete)
  }

  /** The requests under way, from the newest back to the oldest. */
  * pipeline (): Generator<Exchange> {
    for (let exchange = this.newest; exchange !== undefined; exchange = exchange.previous) yield exchange
  }
}

/** One listener per connection, not per response: a queued response of an aborted pipeline has no 'close'. */
function onSocketClose (this: Socket): void {
  const connection = connections.get(this)
  if (!connections.delete(this)) return
  connection?.owner.closed(connection)
}

let isWatching = false

/** Node tells of each request of HTTP/1 on this channel, ahead of every listener and hook, and with its socket. */
export function watchArrivals (): void {
  if (isWatching) return
  isWatching = true
  // For the life of the process: it holds no instance, so there is nothing to let go of.
  subscribe('http.server.request.start', message => {
    const { request, response, socket } = message as { request: IncomingMessage, response: ServerResponse, socket: Socket }
    const connection = connections.get(socket)
    connection?.owner.arrive(request, response, connection)
  })
}
