// A request body that is not used. Closing a connection with unread data resets it before the client can read the answer. So
// the rest of the body is read and dropped, within limits: a lingering close.

import type { IncomingMessage } from 'node:http'
import { clearTimeout, setTimeout } from '../clock.ts'
import { LINGERING_CLOSE } from '../times.ts'

const MOST_BYTES = 64 * 1024 * 1024

/** Reads and drops the body, then calls back. Returns a function that stops it. */
export function dropBody (request: IncomingMessage, callback: () => void): () => void {
  let bytes = 0
  const count = (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > MOST_BYTES) done()
  }
  const timer = setTimeout(() => { done() }, LINGERING_CLOSE)
  const stop = () => {
    clearTimeout(timer)
    request.off('data', count).off('end', done).off('close', done)
  }
  const done = () => {
    stop()
    callback()
  }
  // Not on(): that may be observed, to see when Fastify reads the body.
  request.prependListener('data', count).on('end', done).on('close', done).resume()
  return stop
}
