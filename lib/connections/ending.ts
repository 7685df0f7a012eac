// How a connection has ended: which side has closed it. Asked during a shutdown: a request that is lost with it is named as cut, except
// after a disconnect of the client.

import type { Exchange } from '../requests/exchange.ts'
import type { Transport } from './connection.ts'

/**
 * - `left`: its client has disconnected, or has sent what Node cannot parse.
 * - `expired`: a timer has closed it.
 * - `ended`: code of this process has ended it, before its client.
 * - `destroyed`: code of this process has destroyed it.
 */
type How = 'left' | 'expired' | 'ended' | 'destroyed'

export class Ending {
  readonly #socket: Transport
  #isMalformed = false
  #isExpired = false
  #isEndedFirst = false
  #how: How | undefined

  constructor (socket: Transport) {
    this.#socket = socket
  }

  /** From now on, notes what the socket does not show afterwards. */
  watch (): this {
    const socket = this.#socket
    // Before the listener with which Node ends its side, too.
    socket.prependListener('end', () => { this.#isEndedFirst ||= socket.writableEnded })
    socket.prependListener('timeout', () => { this.#expired() })
    return this
  }

  #expired (): void {
    const socket = this.#socket
    this.#isExpired = true
    // If the application has a listener for it, Node does not close the connection.
    process.nextTick(() => { this.#isExpired = socket.destroyed || socket.writableEnded })
  }

  /**
   * Its server emits 'clientError'. If the connection is still open, a timeout is over, or Node cannot parse what has arrived; listeners
   * close it. Once it has been ended, the rest of a request that is still being received is no fault of the client.
   */
  failed ({ code }: NodeJS.ErrnoException): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return
    if (code === 'ERR_HTTP_REQUEST_TIMEOUT') this.#expired()
    else this.#isMalformed = true
  }

  /**
   * Found once, because each request of the connection asks. Not before it is closed: a queued response may be destroyed earlier.
   * @param requests those of the connection that are not over
   */
  how (requests: Iterable<Exchange>): How {
    const how = this.#how ?? this.#find(requests)
    if (this.#socket.destroyed) this.#how = how
    return how
  }

  #find (requests: Iterable<Exchange>): How {
    const { readableEnded, writableEnded, errored } = this.#socket
    if (this.#isMalformed) return 'left'
    if (this.#isExpired || errored?.code === 'ERR_HTTP_REQUEST_TIMEOUT') return 'expired'
    if (this.#isEndedFirst || (writableEnded && !readableEnded)) return 'ended'
    if (readableEnded && writableEnded) return 'left'
    // A proxy may destroy a request or response with the error of the connection to its upstream.
    const isOfHandler = [...requests].some(({ request, response }) => response.errored === errored || request.errored === errored)
    return errored != null && !isOfHandler && isOfClient(errored) ? 'left' : 'destroyed'
  }
}

/** Whether an error with which Node destroys a connection or session says that its client has disconnected, or violates the protocol. */
export function isOfClient (error: unknown): boolean {
  const { code, syscall } = error as NodeJS.ErrnoException
  // Not those of `connect`, for example: other code may pass on the error of its own connection. From Node 22 on, a socket that code of
  // this process destroys during a write has the error ECANCELED.
  const isOfNetwork = /^(?:read|write|shutdown)$/.test(String(syscall)) && code !== 'ECANCELED'
  return isOfNetwork || /^(?:HPE|ERR_SSL|ERR_HTTP2)_/.test(String(code))
}
