// Connections of clients that wait: for nothing, or for an answer.

import type { Program } from './program.ts'
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'

/** What is measured: one request, without more than it must have. */
export const REQUEST = requestFor('/')

function requestFor (path: string, headers = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: bench\r\n${headers}\r\n`
}

/** How many connections are opened side by side. */
const BATCH = 200

/** A connection over which one request has been sent; `answered` waits until its answer is in. */
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

/** Keep-alive connections that have been answered once. */
export async function idle (port: number, count: number): Promise<Socket[]> {
  return await openMany(count, async () => await open(port, REQUEST, true))
}

/**
 * Connections that wait for an answer of a program that nobody else has asked for that: until SIGTERM, or for ever. Their
 * clients go away as they have it; bare Fastify would wait for them, for nothing tells them to.
 */
export async function inFlight (program: Program, count: number, path: '/held' | '/stuck'): Promise<Socket[]> {
  const sockets = await openMany(count, async () => await open(program.port, requestFor(path, 'Connection: close\r\n'), false))
  while (await program.ask('waiting') < count);
  return sockets
}

export function close (sockets: readonly Socket[]): void {
  for (const socket of sockets) socket.destroy()
}
