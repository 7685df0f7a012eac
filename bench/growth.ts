// What grows with the number of connections, and how.

import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, idle, inFlight, REQUEST } from './clients.ts'
import { IDLE, measureExit } from './exit.ts'
import { median } from './numbers.ts'
import { Program } from './program.ts'
import { OURS } from './subjects.ts'

export interface Growth {
  connections: number
  /** Milliseconds from SIGTERM until the process is gone, with so many idle connections. */
  goneFromIdle: number
  /** Milliseconds from SIGTERM until the process is gone, with so many requests in flight, all answered at once. */
  goneFromInFlight: number
  /** Microseconds of processor time for one more request while so many are in flight. */
  request: number
  /** Nanoseconds to read `inFlightRequests` while so many are in flight. */
  read: number
}

/** Requests over which one's processor time is told. */
const REQUESTS = 5_000

export async function measureGrowth (directory: string, connections: number, runs: number): Promise<Growth> {
  const goneFromIdle: number[] = []
  const goneFromInFlight: number[] = []
  for (let run = 0; run < runs; run++) {
    goneFromIdle.push(await measureExit(directory, OURS, connections))
    goneFromInFlight.push(await goneWith(directory, connections))
  }
  return {
    connections,
    goneFromIdle: median(goneFromIdle),
    goneFromInFlight: median(goneFromInFlight),
    ...await whileInFlight(directory, connections)
  }
}

async function goneWith (directory: string, connections: number): Promise<number> {
  const program = await Program.start({ directory, subject: OURS })
  const sockets = await inFlight(program.port, connections, '/held')
  while (await program.ask('inFlight') < connections);
  await sleep(IDLE)
  const start = performance.now()
  program.kill('SIGTERM')
  await program.gone()
  const time = performance.now() - start
  close(sockets)
  return time
}

async function whileInFlight (directory: string, connections: number): Promise<Pick<Growth, 'request' | 'read'>> {
  const program = await Program.start({ directory, subject: OURS })
  close(await idle(program.port, 1))
  await inFlight(program.port, connections, '/stuck')
  while (await program.ask('inFlight') < connections);
  const socket = connect(program.port, '127.0.0.1')
  const ask = async (): Promise<void> => {
    for (let index = 0; index < REQUESTS; index++) {
      socket.write(REQUEST)
      await once(socket, 'data')
    }
  }
  await ask()
  const before = await program.ask('cpu')
  await ask()
  const request = (await program.ask('cpu') - before) / REQUESTS
  const read = await program.ask('readTime')
  await program.end()
  return { request, read }
}
