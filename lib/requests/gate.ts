// The gate: handles requests that arrive after a shutdown has started.

import type { Channels } from '../lifecycle/channels.ts'
import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import { now } from '../clock.ts'
import { ShuttingDownError, errorBody } from '../errors.ts'
import { RETRY_AFTER } from '../times.ts'
import { attemptEach } from '../values.ts'
import { dropBody } from './body.ts'

const RETRY_AFTER_SECONDS = String(RETRY_AFTER / 1_000)

const BODY = errorBody(new ShuttingDownError())

export class Gate {
  readonly #inFlight: InFlight
  readonly #channels: Channels
  refused = 0
  /** When a request was last admitted while delaying, on the clock of now(). Probes and routes that have opted out do not count. */
  lastAdmitted = -Infinity

  #isDeferring = false
  #isClosing = false
  readonly #deferred = new Set<Exchange>()
  /** Refused uploads, answered when the body is received or connections are about to be closed; the value stops the reading. */
  readonly #uploading = new Map<Exchange, () => void>()

  constructor (inFlight: InFlight, channels: Channels) {
    this.#inFlight = inFlight
    this.#channels = channels
  }

  /** Whether this request may continue; if not, it is refused. Not called in the phase `running`. */
  admits (exchange: Exchange): boolean {
    if (exchange.isUnanswerable) return false
    if (exchange.hasOptedOut) {
      this.#inFlight.optOut(exchange)
      return true
    }
    // A request that arrived in time may have been held by a hook of another plugin.
    if (this.#inFlight.counts(exchange)) {
      this.lastAdmitted = now()
      return true
    }
    this.#count(exchange)
    if (exchange.needsConnection) this.#refuseUpload(exchange)
    else this.#refuse(exchange)
    return false
  }

  /** A hook ahead of the gate has answered this request, as @fastify/cors answers preflights. Not called in the phase `running`. */
  noteAnsweredAhead (exchange: Exchange): void {
    if (!exchange.hasOptedOut) this.lastAdmitted = now()
  }

  #count (exchange: Exchange): void {
    this.refused++
    this.#channels.publish('refused', () => ({ entry: this.#inFlight.describe(exchange) }))
  }

  #refuseUpload (exchange: Exchange): void {
    this.#uploading.set(exchange, dropBody(exchange.request, () => {
      this.#uploading.delete(exchange)
      this.#refuse(exchange)
    }))
    if (this.#isClosing) this.#refuseUploads()
  }

  /**
   * Defers refusals until `sendRefusals`, because a client without an answer does not reconnect at once. On an HTTP/1 connection only the
   * last one: Node stops reading from a client that reads no answers, but not from one that gets none.
   */
  deferRefusals (): void {
    this.#isDeferring = true
  }

  sendRefusals (): void {
    this.#isDeferring = false
    this.#isClosing = true
    for (const exchange of this.#deferred) this.#send(exchange)
    this.#deferred.clear()
    this.#refuseUploads()
  }

  /** The connection may close before the body is received. A client that reads while it sends gets the answer now. */
  #refuseUploads (): void {
    for (const [exchange, stop] of this.#uploading) {
      stop()
      exchange.request.resume()
      this.#refuse(exchange)
    }
    this.#uploading.clear()
  }

  /**
   * Before connections are closed, or the process exits, answers what nothing waits for: requests that hooks hold, and those of routes
   * that opted out.
   */
  refuseRest (): void {
    attemptEach(this.#inFlight.uncounted, exchange => {
      if (exchange.isGone || exchange.isCommitted || exchange.isUnanswerable) return
      // It never reached the gate.
      if (exchange.reply === undefined) this.#count(exchange)
      // The headers of its reply may describe the answer of its handler, such as its encoding.
      sendRefusal(exchange, {})
    })
  }

  #refuse (exchange: Exchange): void {
    if (!this.#isDeferring) {
      this.#send(exchange)
      return
    }
    const { previous } = exchange
    if (previous !== undefined && this.#deferred.delete(previous)) this.#send(previous)
    this.#deferred.add(exchange)
  }

  #send (exchange: Exchange): void {
    // While its upload was read or its refusal was deferred, `readTimeout` may have cut it.
    if (exchange.isCommitted) return
    // Only the newest of a pipeline may say `Connection: close`, because Node drops everything after it.
    if ((exchange.connection?.newest ?? exchange) === exchange) exchange.endConnection()
    sendRefusal(exchange, exchange.reply?.getHeaders())
  }
}

/** Not with `reply.send()`: its onSend hooks may need what onRequest hooks that did not run would have set. */
function sendRefusal (exchange: Exchange, headers: object | undefined): void {
  exchange.answer(503, BODY, { ...headers, 'retry-after': RETRY_AFTER_SECONDS })
}
