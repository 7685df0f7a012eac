// The gate: what a request meets that arrives once a shutdown has started.

import type { IncomingMessage } from 'node:http'
import type { Connections } from '../connections/sockets.ts'
import type { PhaseClock } from '../lifecycle/phase.ts'
import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import type { FastifyReply } from 'fastify'
import { ShuttingDownError, errorBody } from '../errors.ts'
import { dropBody } from './body.ts'

/** The next try goes to another instance, which can be asked at once. */
const RETRY_AFTER_SECONDS = '1'

const body = errorBody(new ShuttingDownError())

/**
 * Whether a request asks for another protocol and the server listens for that: Node has let go of its socket. It sets the
 * field, which its types lack; a WebSocket that @fastify/websocket injects has no socket at all.
 */
export function isUpgrade (request: IncomingMessage): boolean {
  const { upgrade, socket } = request as { upgrade?: boolean, socket?: unknown }
  return upgrade === true || socket === undefined
}

export class Gate {
  readonly #phase: PhaseClock
  readonly #connections: Connections
  readonly #inFlight: InFlight
  /** Requests refused. */
  refused = 0

  #holding = false
  #closing = false
  readonly #held: Exchange[] = []
  /** Refused, and answered once all of their bodies are in or connections are about to be closed; how to stop reading each. */
  readonly #uploading = new Map<Exchange, () => void>()

  constructor (phase: PhaseClock, connections: Connections, inFlight: InFlight) {
    this.#phase = phase
    this.#connections = connections
    this.#inFlight = inFlight
  }

  /** Whether this request may go on; if not, it is refused. Not for the phase `running`. */
  admits (exchange: Exchange): boolean {
    const isOptedOut = exchange.reply?.routeOptions.config.gracefulShutdown === false
    // A request that arrived in time may have been held by a hook of another plugin until now.
    if (this.#phase.current === 'delaying' || isOptedOut || this.#inFlight.counts(exchange)) return true
    this.refused++
    if (exchange.isUpgrade) refuseUpgrade(exchange)
    else if (exchange.needsConnection) this.#refuseUpload(exchange)
    else this.#refuse(exchange)
    return false
  }

  #refuseUpload (exchange: Exchange): void {
    this.#uploading.set(exchange, dropBody(exchange.request, () => {
      if (this.#uploading.delete(exchange)) this.#refuse(exchange)
    }))
    if (this.#closing) this.#refuseUploads()
  }

  /** Answers no request until `release`: a client that is not answered does not come back at once with a new connection. */
  hold (): void {
    this.#holding = true
  }

  release (): void {
    this.#holding = false
    this.#closing = true
    for (const exchange of this.#held.splice(0)) this.#refuse(exchange)
    this.#refuseUploads()
  }

  /** Their connections may not last until all is in. A client that reads while it sends is told now, and goes on for a moment. */
  #refuseUploads (): void {
    for (const [exchange, stop] of this.#uploading) {
      stop()
      exchange.request.resume()
      this.#refuse(exchange, true)
    }
    this.#uploading.clear()
  }

  /** Answers, as connections are about to be closed, what has not been: hooks hold it, or its refusal. */
  refuseRest (): void {
    for (const exchange of this.#inFlight.uncounted) {
      if (exchange.isGone || exchange.isAnswered || exchange.isUpgrade) continue
      // It never came to the gate.
      if (exchange.reply === undefined) this.refused++
      try {
        exchange.answer(new ShuttingDownError(), { 'retry-after': RETRY_AFTER_SECONDS })
      } catch {
        exchange.abort()
      }
    }
  }

  /** @param isReading whether its connection stays open until all of its body is in */
  #refuse (exchange: Exchange, isReading = false): void {
    if (this.#holding) {
      this.#held.push(exchange)
      return
    }
    if (!isReading) this.#connections.endAfter(exchange)
    sendRefusal(exchange.reply as FastifyReply)
  }
}

/** As text: an Error would go through error handlers and log a stack for each refused request. */
function sendRefusal (reply: FastifyReply): void {
  if (reply.sent) return
  reply.code(503)
    .header('retry-after', RETRY_AFTER_SECONDS)
    .type('application/json; charset=utf-8')
    .send(body)
}

/** Node has let go of the socket of an upgrade, and the plugin that took it has not seen the request. */
function refuseUpgrade ({ response, socket, reply }: Exchange): void {
  response.shouldKeepAlive = false
  response.once('finish', () => { socket?.end() })
  sendRefusal(reply as FastifyReply)
}
