// The gate: what a request meets that comes in once a shutdown has started.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Connections } from './connections.ts'
import type { PhaseClock } from './phase.ts'
import { Socket } from 'node:net'
import { ShuttingDownError, errorBody } from './errors.ts'
import { dropBody, isArriving } from './request-body.ts'

/** What Node reads of a socket at a time. */
const ONE_READ = 64 * 1024

/** Another instance can be asked at once: behind a load balancer, the next try goes to one. */
const RETRY_AFTER_SECONDS = '1'

const body = errorBody(new ShuttingDownError())

/** Whether a request asks for another protocol and somebody listens for that; Node sets the field, its types lack it. */
export function isUpgrade (raw: IncomingMessage): boolean {
  return (raw as { upgrade?: boolean }).upgrade === true
}

export class Gate {
  readonly #phase: PhaseClock
  readonly #connections: Connections
  /** Requests refused. */
  refused = 0

  #holding = false
  readonly #held: FastifyReply[] = []
  /** Refused, and answered as soon as all of their bodies are in, or the connections are about to be closed. */
  readonly #uploading = new Set<FastifyReply>()
  #closing = false

  constructor (phase: PhaseClock, connections: Connections) {
    this.#phase = phase
    this.#connections = connections
  }

  /** Whether this request may go on; if not, it has been answered. Not for the phase `running`. */
  admits (request: FastifyRequest, reply: FastifyReply): boolean {
    if (this.#phase.current === 'delaying' || request.routeOptions.config.gracefulShutdown === false) {
      this.#connections.closeAfter(reply)
      return true
    }
    this.refused++
    const { raw } = request
    if (isUpgrade(raw)) {
      closeUpgrade(reply.raw, raw.socket)
      this.#refuse(reply)
    } else if (isArriving(raw)) {
      this.#connections.closeAfter(reply)
      this.#uploading.add(reply)
      dropBody(raw, () => { if (this.#uploading.delete(reply)) this.#refuse(reply) })
      if (this.#closing) this.#refuseUploads()
    } else {
      skipShutdown(raw)
      this.#refuse(reply)
    }
    return false
  }

  /** Answers nobody until `release`: who is not answered does not come back at once with a new connection. */
  hold (): void {
    this.#holding = true
  }

  release (): void {
    this.#holding = false
    this.#closing = true
    for (const reply of this.#held.splice(0)) this.#refuse(reply)
    this.#refuseUploads()
  }

  /** Their connections may not last until all is in. Who reads while he sends is told now, and not cut off for that yet. */
  #refuseUploads (): void {
    for (const reply of this.#uploading) this.#refuse(reply, true)
    this.#uploading.clear()
  }

  /** @param isWaitedFor whether what is still on its way of its body is; else it is refused for that, too */
  #refuse (reply: FastifyReply, isWaitedFor = false): void {
    this.#connections.closeAfter(reply, isWaitedFor)
    if (this.#holding) {
      this.#held.push(reply)
      return
    }
    // Sent as text: an Error would go through error handlers and log a stack for each refused request.
    reply.code(503)
      .header('retry-after', RETRY_AFTER_SECONDS)
      .type('application/json; charset=utf-8')
      .send(body)
  }
}

/**
 * Behind its last answer, Node closes a socket as soon as it is shut down for writing. The client learns no more from the two
 * than from the close alone, and they cost a tenth of a refusal. Not over TLS, which says goodbye as it is shut down; and
 * not where more may wait in the kernel than Node has read at once: to close that resets the connection.
 */
function skipShutdown ({ httpVersionMajor, socket }: IncomingMessage): void {
  if (httpVersionMajor === 2 || !(socket instanceof Socket) || 'encrypted' in socket || socket.bytesRead >= ONE_READ) return
  socket._final = callBack // oxlint-disable-line no-underscore-dangle
}

function callBack (callback: () => void): void {
  callback()
}

/** Node has let go of this socket, and the plugin that took it has not seen the request. */
function closeUpgrade (response: ServerResponse, socket: Socket): void {
  response.shouldKeepAlive = false
  response.once('finish', () => { socket.end() })
}
