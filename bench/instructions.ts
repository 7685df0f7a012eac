// Instructions that the server spends on a request, counted by callgrind. Counts repeat where times vary: within half a
// percent, for V8 does not optimize quite the same in each process. They are read several times in one run, and the start
// is not among them.

import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { REQUEST } from './clients.ts'
import { median } from './numbers.ts'
import { Program } from './program.ts'

export interface Sizes {
  /** Requests until the code that is called often has been compiled. */
  warmUp: number
  /** Requests of a window. */
  window: number
  windows: number
}

/**
 * Node without threads of its own, without chance, and without work that it does as time goes by. With room for so many new
 * objects, most windows have no garbage collection, which takes as much as a hundred requests and comes by chance.
 */
const FLAGS = [
  '--single-threaded', '--hash-seed=1', '--random-seed=1', '--predictable-gc-schedule', '--min-semi-space-size=64', '--max-semi-space-size=64'
]

/** Per request, of the median window. */
export async function countInstructions (directory: string, subject: string, logger: boolean, sizes: Sizes): Promise<number> {
  const out = join(mkdtempSync(join(directory, 'callgrind-')), 'out')
  const under = ['valgrind', '--tool=callgrind', `--callgrind-out-file=${out}`, '--smc-check=all-non-file']
  const program = await Program.start({ directory, subject, logger, flags: FLAGS, under })
  const ask = await client(program.port)
  await ask(sizes.warmUp)
  await dump(program.pid)
  for (let index = 0; index < sizes.windows; index++) {
    await ask(sizes.window)
    await dump(program.pid)
  }
  await program.end()
  const windows = Array.from({ length: sizes.windows }, (_, index) => {
    const text = readFileSync(`${out}.${index + 2}`, 'utf8')
    return Math.round(Number(/^summary: (\d+)$/m.exec(text)?.[1]) / sizes.window)
  })
  return median(windows)
}

/** Writes down what has been counted, and counts from zero again. */
async function dump (pid: number): Promise<void> {
  await promisify(execFile)('callgrind_control', ['--dump', String(pid)])
}

/** Over one connection, each request as soon as the one before is answered: the server does the same for each. */
async function client (port: number): Promise<(requests: number) => Promise<void>> {
  const socket = connect(port, '127.0.0.1').setNoDelay()
  await once(socket, 'connect')
  return async requests => {
    for (let index = 0; index < requests; index++) {
      socket.write(REQUEST)
      await once(socket, 'data')
    }
  }
}
