// A listening socket that the service inherits, as from systemd.

import { once } from 'node:events'
import { type Server, createServer } from 'node:net'

/** Its file descriptor in the service. The one after it keeps the socket open until the process ends, as systemd does. */
export const INHERITED = 4

/** Opens it. The caller closes its own copy as soon as the process has started. */
export async function openListener (): Promise<{ server: Server, fd: number }> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  // Node has no public way to get the file descriptor of a server.
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle // oxlint-disable-line no-underscore-dangle
  return { server, fd }
}
