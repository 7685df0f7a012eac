// A listening socket that the service inherits, as from systemd.

import { once } from 'node:events'
import { type Server, createServer } from 'node:net'

/** Its file descriptor in the service of the chaos runs. The one after it keeps the socket open until the process ends, as systemd does. */
export const INHERITED = 4

/**
 * Opens it. The caller closes its own copy as soon as the process has started.
 * @param path of a Unix socket; otherwise, it is a free port
 */
export async function openListener (path?: string): Promise<{ server: Server, fd: number }> {
  const server = path === undefined ? createServer().listen(0, '127.0.0.1') : createServer().listen(path)
  await once(server, 'listening')
  // Node has no public way to get the file descriptor of a server.
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle // oxlint-disable-line no-underscore-dangle
  return { server, fd }
}
