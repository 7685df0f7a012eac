// Memory of a connection in the server: idle, or with a request in flight.

import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, idle, inFlight } from './clients.ts'
import { Program } from './program.ts'

export interface Memory {
  /** Bytes of heap for a connection. */
  idle: number
  inFlight: number
}

/** Milliseconds until short-lived objects, such as timers, are released. */
const SETTLED = 500

export async function measureMemory (directory: string, subject: string, connections: number): Promise<Memory> {
  const program = await Program.start({ directory, subject, flags: ['--expose-gc', '--single-threaded'] })
  const used = async () => {
    await sleep(SETTLED)
    return await program.ask('heapUsed')
  }
  const leave = async (sockets: readonly Socket[]) => {
    close(sockets)
    while (await program.ask('connections') > 0);
  }
  // The first connections also pay for one-time allocations: code, caches, tables that do not shrink again.
  await leave(await idle(program.port, connections))
  const before = await used()
  const sockets = await idle(program.port, connections)
  const withIdle = await used()
  await leave(sockets)
  const between = await used()
  await inFlight(program, connections, '/stuck')
  const withBusy = await used()
  await program.end()
  return { idle: Math.round((withIdle - before) / connections), inFlight: Math.round((withBusy - between) / connections) }
}
