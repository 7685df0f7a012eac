// The time from SIGTERM until the process has exited, with one request in flight, which is answered at once, and with
// connections that have been idle for a while. It is not measured from the response, because some packages close idle connections
// before it and others after it, so that a request that arrives in between still gets a response.

import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, idle, inFlight } from './clients.ts'
import { Program } from './program.ts'

/** Milliseconds. A client that got a response more recently may be about to send its next request. */
export const IDLE = 1_500

/** Milliseconds until the process must have exited. Some packages wait for a timeout of their own first. */
const PATIENCE = 30_000

/** One exit, in milliseconds. */
export async function measureExit (directory: string, subject: string, idleConnections: number): Promise<number> {
  const program = await Program.start({ directory, subject })
  const crowd = await idle(program.port, idleConnections)
  if (idleConnections > 0) await sleep(IDLE)
  const [last] = await inFlight(program, 1, '/held')
  if (last === undefined) throw new Error('No connection')
  let isAnswered = false
  last.once('data', () => { isAnswered = true })
  const closed = once(last, 'close')
  const time = await terminate(program)
  await closed
  if (!isAnswered) throw new Error(`${subject} has not answered the request in flight`)
  close(crowd)
  return time
}

/** Milliseconds from SIGTERM until the process is gone; Infinity if that takes too long. */
export async function terminate (program: Program): Promise<number> {
  const giveUp = setTimeout(() => { program.kill('SIGKILL') }, PATIENCE)
  const start = performance.now()
  program.kill('SIGTERM')
  await program.gone()
  const time = performance.now() - start
  clearTimeout(giveUp)
  return time < PATIENCE ? time : Infinity
}
