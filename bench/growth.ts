// How costs grow with the number of connections.

import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, idle, inFlight, REQUEST } from './clients.ts'
import { IDLE, measureExit, terminate } from './exit.ts'
import { median } from './numbers.ts'
import { Program } from './program.ts'
import { BARE, OURS } from './subjects.ts'

export interface Costs {
  /** Milliseconds from SIGTERM until the process has exited, with this number of idle connections. */
  goneFromIdle: number
  /** Milliseconds from SIGTERM until the process has exited, with this number of requests in flight, all answered at once. */
  goneFromInFlight: number
  /** Microseconds of processor time for one more request, with this number of idle connections open. */
  besideIdle: number
  /** The same with this number of requests in flight. */
  besideInFlight: number
}

export interface Growth {
  connections: number
  ours: Costs
  bare: Costs
  /** Nanoseconds to read `inFlightRequests` with this number of requests in flight. */
  read: number
}

/** Requests over which the processor time is averaged. */
const REQUESTS = 5_000

export async function measureGrowth (directory: string, connections: number, runs: number): Promise<Growth> {
  const ours: Costs[] = []
  const bare: Costs[] = []
  const reads: number[] = []
  for (let run = 0; run < runs; run++) {
    bare.push((await measureCosts(directory, BARE, connections)).costs)
    const { costs, read } = await measureCosts(directory, OURS, connections)
    ours.push(costs)
    reads.push(read)
  }
  return { connections, ours: middle(ours), bare: middle(bare), read: median(reads) }
}

async function measureCosts (directory: string, subject: string, connections: number): Promise<{ costs: Costs, read: number }> {
  const beside = await Program.start({ directory, subject })
  await idle(beside.port, connections)
  const besideIdle = await oneMore(beside)
  await beside.end()

  const program = await Program.start({ directory, subject })
  await inFlight(program, connections, '/stuck')
  const besideInFlight = await oneMore(program)
  const read = subject === OURS ? await program.ask('readTime') : NaN
  await program.end()

  const costs = {
    goneFromIdle: await measureExit(directory, subject, connections),
    goneFromInFlight: await goneWith(directory, subject, connections),
    besideIdle,
    besideInFlight
  }
  return { costs, read }
}

async function goneWith (directory: string, subject: string, connections: number): Promise<number> {
  const program = await Program.start({ directory, subject })
  const sockets = await inFlight(program, connections, '/held')
  await sleep(IDLE)
  const time = await terminate(program)
  close(sockets)
  return time
}

async function oneMore (program: Program): Promise<number> {
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
  return (await program.ask('cpu') - before) / REQUESTS
}

function middle (runs: readonly Costs[]): Costs {
  const of = (what: keyof Costs) => median(runs.map(costs => costs[what]))
  return { goneFromIdle: of('goneFromIdle'), goneFromInFlight: of('goneFromInFlight'), besideIdle: of('besideIdle'), besideInFlight: of('besideInFlight') }
}
