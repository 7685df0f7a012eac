// Which replies are under way on an HTTP/1 connection, from the oldest to the newest: a client may send requests without
// waiting for answers, and is answered in that order. The links are on the socket and on the replies themselves, so
// that a request costs no more than a few stores.

import type { FastifyReply } from 'fastify'
import type { Socket } from 'node:net'
import { isArriving } from './request-body.ts'

/** On a socket: the newest of its replies that are not over; null while it is idle. */
const kNewest = Symbol('graceful.newest')
/** On a socket: the oldest of them, where there are more than one. */
const kOldest = Symbol('graceful.oldest')
/** On a reply: the one that came behind it on the same socket. */
const kNext = Symbol('graceful.next')

interface Linked extends FastifyReply {
  [kNext]?: Linked | undefined
}

export interface Connection extends Socket {
  [kOldest]?: Linked | null | undefined
  [kNewest]?: Linked | null | undefined
}

/** Before the first request of a connection. */
export function prepare (socket: Connection): void {
  socket[kOldest] = null
  socket[kNewest] = null
}

/** Whether requests may come: not before the connection is known, and not after its last one. */
export function isPrepared (socket: Connection): boolean {
  return socket[kNewest] !== undefined
}

/** Between requests. */
export function isIdle (socket: Connection): boolean {
  return socket[kNewest] === null
}

export function open (socket: Connection, reply: Linked): void {
  const newest = socket[kNewest]
  if (newest != null) enqueue(socket, newest, reply)
  else socket[kNewest] = reply
}

function enqueue (socket: Connection, newest: Linked, reply: Linked): void {
  if (isOver(newest)) {
    // It was answered before its body was in.
    prepare(socket)
    socket[kNewest] = reply
  } else if (isOlder(reply, newest)) {
    insert(socket, reply)
  } else {
    newest[kNext] = reply
    socket[kOldest] ??= newest
    socket[kNewest] = reply
  }
}

/** Behind those that are older: others have overtaken it while a hook ahead of the plugin's was at work. */
function insert (socket: Connection, reply: Linked): void {
  let before: Linked | undefined
  let behind = oldest(socket) as Linked
  while (isOlder(behind, reply)) {
    before = behind
    behind = behind[kNext] as Linked
  }
  reply[kNext] = behind
  if (before === undefined) socket[kOldest] = reply
  else before[kNext] = reply
}

/** Fastify starts the clock of each as it comes in, and stops it as it is answered: who has been answered is the older one. */
function isOlder (reply: FastifyReply, other: FastifyReply): boolean {
  return reply.raw.writableFinished || (!other.raw.writableFinished && reply.elapsedTime > other.elapsedTime)
}

function isOver ({ raw, request }: FastifyReply): boolean {
  return raw.writableFinished && request.raw.complete
}

/** All of them, the oldest first. */
export function * repliesOf (socket: Connection): Generator<FastifyReply, void> {
  for (let reply = oldest(socket); reply != null; reply = reply[kNext]) yield reply
}

function oldest (socket: Connection): Linked | null | undefined {
  return socket[kOldest] ?? socket[kNewest]
}

/** Do not keep a reply in memory for as long as its connection lives. */
export function end (socket: Connection, reply: Linked): void {
  const isNewest = socket[kNewest] === reply
  // Answered before its body was in, a request still needs its connection: to close that now would reset it.
  if (isNewest && !reply.request.raw.complete) return
  if (isNewest && socket[kOldest] == null) prepare(socket)
  else remove(socket, reply)
}

/** Mostly the oldest; another one where a hook ahead of the plugin's is told of their ends, and takes its time. */
function remove (socket: Connection, reply: Linked): void {
  let before: Linked | undefined
  let at = oldest(socket)
  while (at != null && at !== reply) {
    before = at
    at = at[kNext]
  }
  if (at == null) return
  if (before !== undefined) before[kNext] = reply[kNext]
  else socket[kOldest] = reply[kNext]
  if (socket[kNewest] === reply) socket[kNewest] = before
  if (socket[kNewest] === undefined) prepare(socket)
}

/** Whether somebody sends a request or waits for an answer. */
export function isBusy (socket: Connection): boolean {
  const newest = socket[kNewest]
  return newest != null && !isOver(newest)
}

/** The connection is gone: tells of each reply that is not over, and leaves none behind. */
export function abort (socket: Connection, onGone: (reply: FastifyReply) => void): void {
  for (let reply = oldest(socket); reply != null; reply = reply[kNext]) {
    onGone(reply)
    // Node 20 and 22 say nothing to a response that has not had its turn yet; 24 and later do this themselves.
    if (!reply.raw.destroyed) reply.raw.destroy().emit('close')
  }
  socket[kOldest] = undefined
  socket[kNewest] = undefined
}

/**
 * The newest response says `Connection: close`, as far as it can still be said. Of a pipeline only the last one may say
 * it: Node drops what comes behind one that does. And it closes at once after one that does, whether the request's body
 * is in or not: while that arrives, it is too early to say so, unless nobody waits for it any more.
 * Node writes the header by this property; set as a header, it would have Node merge all others one by one.
 */
export function sayClose (socket: Connection, isWaitedFor = true): void {
  for (let reply = oldest(socket); reply != null; reply = reply[kNext]) {
    const { raw, request } = reply
    if (raw.headersSent) continue
    if (reply !== socket[kNewest]) raw.shouldKeepAlive = true
    else if (isWaitedFor && isArriving(request.raw)) request.raw.once('end', () => { sayClose(socket) })
    else raw.shouldKeepAlive = false
  }
}

/** Whether a response, of which the head is out, said so. */
export function saidClose ({ raw }: FastifyReply): boolean {
  return !raw.shouldKeepAlive
}
