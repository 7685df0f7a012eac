// From SIGTERM, which finds one request in flight that is answered at once, and connections that have been idle for a
// while, until the process is gone. Not from that answer: some close all that is idle before they let it out, others after,
// so that who asks meanwhile can still be told.

import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { close, idle, inFlight } from './clients.ts'
import { Program } from './program.ts'

/** Milliseconds after which a connection is really idle: who has only just been answered may be about to ask again. */
export const IDLE = 1_500

/** Milliseconds until all of a crowd must be gone; some packages wait for their own time-out first. */
const PATIENCE = 30_000

/** One time, in milliseconds. */
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
  if (!isAnswered) throw new Error(`${subject} has not answered who was in flight`)
  close(crowd)
  return time
}

/** Milliseconds from SIGTERM until it is gone; Infinity where that takes too long. */
export async function terminate (program: Program): Promise<number> {
  const giveUp = setTimeout(() => { program.kill('SIGKILL') }, PATIENCE)
  const start = performance.now()
  program.kill('SIGTERM')
  await program.gone()
  const time = performance.now() - start
  clearTimeout(giveUp)
  return time < PATIENCE ? time : Infinity
}
