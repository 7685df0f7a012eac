// The gate: what a request meets that comes in once a shutdown has started.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Connections } from './connections.ts'
import type { PhaseClock } from './phase.ts'
import { ShuttingDownError, errorBody } from './errors.ts'

/** Another instance can be asked at once: behind a load balancer, the next try goes to one. */
const RETRY_AFTER_SECONDS = '1'

/** How much of a refused request's body is read, so that a client which writes before it reads sees its 503. */
const REFUSED_BODY = { bytes: 64 * 1024 * 1024, milliseconds: 5_000 }

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
  /** When the last request came in since the shutdown started, as performance.now() counts. */
  lastArrival = -Infinity

  #holding = false
  readonly #held: Array<() => void> = []

  constructor (phase: PhaseClock, connections: Connections) {
    this.#phase = phase
    this.#connections = connections
  }

  /** Whether this request may go on; if not, it has been answered. Not for the phase `running`. */
  admits (request: FastifyRequest, reply: FastifyReply): boolean {
    this.lastArrival = performance.now()
    this.#connections.closeAfter(reply)
    if (this.#phase.current === 'delaying' || request.routeOptions.config.gracefulShutdown === false) return true
    this.refused++
    this.#refuse(request, reply)
    return false
  }

  /** Answers nobody until `release`: who is not answered does not come back at once with a new connection. */
  hold (): void {
    this.#holding = true
  }

  release (): void {
    this.#holding = false
    for (const answer of this.#held) answer()
  }

  #refuse (request: FastifyRequest, reply: FastifyReply): void {
    // Sent as text: an Error would go through error handlers and log a stack for each refused request.
    const answer = () => {
      reply.code(503)
        .header('retry-after', RETRY_AFTER_SECONDS)
        .type('application/json; charset=utf-8')
        .send(body)
    }
    const refuse = () => {
      if (this.#holding) this.#held.push(answer)
      else answer()
    }
    if (hasBody(request.raw)) {
      afterBody(request.raw, refuse)
    } else {
      if (isUpgrade(request.raw)) closeUpgrade(reply.raw, request.raw.socket)
      refuse()
    }
  }
}

/** Node has let go of this socket, and the plugin that took it has not seen the request. */
function closeUpgrade (response: ServerResponse, socket: Socket): void {
  response.setHeader('connection', 'close')
  response.once('finish', () => { socket.end() })
}

function hasBody ({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/**
 * Reads and drops a request's body, then calls back. Ending a response while its request still comes in
 * closes the socket with unread data, which resets the connection before the client can read the answer.
 */
function afterBody (raw: IncomingMessage, callback: () => void): void {
  let bytes = 0
  const timer = setTimeout(done, REFUSED_BODY.milliseconds)
  function done (): void {
    clearTimeout(timer)
    raw.off('data', count).off('end', done).off('close', done)
    callback()
  }
  function count (chunk: Buffer): void {
    bytes += chunk.length
    if (bytes > REFUSED_BODY.bytes) done()
  }
  raw.on('data', count).on('end', done).on('close', done)
}
