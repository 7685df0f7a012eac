// The gate: handles requests that arrive after a shutdown has started.

import type { IncomingMessage } from 'node:http'
import type { Connections } from '../connections/sockets.ts'
import type { PhaseClock } from '../lifecycle/phase.ts'
import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import type { FastifyReply } from 'fastify'
import { ShuttingDownError, errorBody } from '../errors.ts'
import { dropBody } from './body.ts'

/** The retry goes to another instance, which can be asked at once. */
const RETRY_AFTER_SECONDS = '1'

const body = errorBody(new ShuttingDownError())

/**
 * Whether a request asks for an upgrade and the server listens for upgrades, so that Node has detached its socket. Node sets
 * the field, but its types lack it; a WebSocket injected by @fastify/websocket has no socket.
 */
export function isUpgrade (request: IncomingMessage): boolean {
  const { upgrade, socket } = request as { upgrade?: boolean, socket?: unknown }
  return upgrade === true || socket === undefined
}

export class Gate {
  readonly #phase: PhaseClock
  readonly #connections: Connections
  readonly #inFlight: InFlight
  /** Refused requests. */
  refused = 0

  #holding = false
  #closing = false
  readonly #held: Exchange[] = []
  /** Refused uploads, answered when the body is received or connections are about to be closed; the value stops the reading. */
  readonly #uploading = new Map<Exchange, () => void>()

  constructor (phase: PhaseClock, connections: Connections, inFlight: InFlight) {
    this.#phase = phase
    this.#connections = connections
    this.#inFlight = inFlight
  }

  /** Whether this request may continue; if not, it is refused. Not called in the phase `running`. */
  admits (exchange: Exchange): boolean {
    const isOptedOut = exchange.reply?.routeOptions.config.gracefulShutdown === false
    // A request that arrived in time may have been held by a hook of another plugin.
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

  /** Delays all refusals until `release`, because a client without an answer does not reconnect at once. */
  hold (): void {
    this.#holding = true
  }

  release (): void {
    this.#holding = false
    this.#closing = true
    for (const exchange of this.#held.splice(0)) this.#refuse(exchange)
    this.#refuseUploads()
  }

  /** The connection may close before the body is received. A client that reads while it sends gets the answer now. */
  #refuseUploads (): void {
    for (const [exchange, stop] of this.#uploading) {
      stop()
      exchange.request.resume()
      this.#refuse(exchange, true)
    }
    this.#uploading.clear()
  }

  /** Before connections are closed, answers requests that hooks hold, or whose refusals they hold. */
  refuseRest (): void {
    for (const exchange of this.#inFlight.uncounted) {
      if (exchange.isGone || exchange.isAnswered) continue
      // It never reached the gate.
      if (exchange.reply === undefined) this.refused++
      exchange.answer(new ShuttingDownError(), { 'retry-after': RETRY_AFTER_SECONDS })
    }
  }

  /** @param isReading whether the connection stays open until the body is received */
  #refuse (exchange: Exchange, isReading = false): void {
    // While its upload was read or its refusal was held, `readTimeout` may have cut it.
    if (exchange.isAnswered) return
    if (this.#holding) {
      this.#held.push(exchange)
      return
    }
    if (!isReading) this.#connections.endAfter(exchange)
    sendRefusal(exchange.reply as FastifyReply)
  }
}

/** As text: an Error would run error handlers and log a stack for each refused request. */
function sendRefusal (reply: FastifyReply): void {
  reply.code(503)
    .header('retry-after', RETRY_AFTER_SECONDS)
    .type('application/json; charset=utf-8')
    .send(body)
}

/** Node has detached the socket of an upgrade, and the plugin that took it has not seen the request. */
function refuseUpgrade ({ response, socket, reply }: Exchange): void {
  response.shouldKeepAlive = false
  response.once('finish', () => { socket?.end() })
  sendRefusal(reply as FastifyReply)
}
