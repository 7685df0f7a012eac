// A request's body that nobody is going to use. Closing a connection with unread data resets it, before the client
// can read the answer: so it is read on and dropped, within limits.

import type { IncomingMessage } from 'node:http'

/** How much is read on, in bytes and milliseconds, for a client that writes before it reads. */
const MOST = { bytes: 64 * 1024 * 1024, milliseconds: 5_000 }

export function hasBody ({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** Whether some of the body is still on its way. */
export function isArriving (raw: IncomingMessage): boolean {
  return !raw.complete && !raw.destroyed && hasBody(raw)
}

/** Reads and drops the body, then calls back. */
export function dropBody (raw: IncomingMessage, callback: () => void): void {
  let bytes = 0
  const timer = setTimeout(done, MOST.milliseconds)
  function done (): void {
    clearTimeout(timer)
    raw.off('data', count).off('end', done).off('close', done)
    callback()
  }
  function count (chunk: Buffer): void {
    bytes += chunk.length
    if (bytes > MOST.bytes) done()
  }
  raw.on('data', count).on('end', done).on('close', done)
}
