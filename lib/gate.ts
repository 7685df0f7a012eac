// The gate: what a request meets that comes in once a shutdown has started.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Connections } from './connections.ts'
import type { PhaseClock } from './phase.ts'
import { ShuttingDownError, errorBody } from './errors.ts'
import { dropBody, hasBody } from './request-body.ts'

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
  readonly #held: Array<() => void> = []

  constructor (phase: PhaseClock, connections: Connections) {
    this.#phase = phase
    this.#connections = connections
  }

  /** Whether this request may go on; if not, it has been answered. Not for the phase `running`. */
  admits (request: FastifyRequest, reply: FastifyReply): boolean {
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
      this.#connections.closeAfter(reply, false)
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
      dropBody(request.raw, refuse)
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
