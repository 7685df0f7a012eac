// Client connections, idle or waiting for a response.

import type { Program } from './program.ts'
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'

/** The request that is measured, with no headers but the required one. */
export const REQUEST = requestFor('/')

function requestFor (path: string, headers = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: bench\r\n${headers}\r\n`
}

/** Connections that are opened at the same time. */
const BATCH = 200

/** A connection over which one request has been sent. With `answered`, resolves when the response has arrived. */
async function open (port: number, request: string, answered: boolean): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write(request)
  await once(socket, answered ? 'data' : 'connect')
  socket.resume()
  return socket
}

async function openMany (count: number, one: () => Promise<Socket>): Promise<Socket[]> {
  const sockets: Socket[] = []
  while (sockets.length < count) {
    sockets.push(...await Promise.all(Array.from({ length: Math.min(BATCH, count - sockets.length) }, one)))
  }
  return sockets
}

/** Keep-alive connections that have each had one response. */
export async function idle (port: number, count: number): Promise<Socket[]> {
  return await openMany(count, async () => await open(port, REQUEST, true))
}

/**
 * Connections that each wait for a response, until SIGTERM or forever. No other request to these routes may be in flight.
 * The requests send `Connection: close`, because bare Fastify would not close these connections when it closes.
 */
export async function inFlight (program: Program, count: number, path: '/held' | '/stuck'): Promise<Socket[]> {
  const sockets = await openMany(count, async () => await open(program.port, requestFor(path, 'Connection: close\r\n'), false))
  while (await program.ask('waiting') < count);
  return sockets
}

export function close (sockets: readonly Socket[]): void {
  for (const socket of sockets) socket.destroy()
}
