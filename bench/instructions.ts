// Instructions that the server executes for a request, counted by callgrind. Times vary by 10 % or more; counts are repeatable.

import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { REQUEST } from './clients.ts'
import { median } from './numbers.ts'
import { Program } from './program.ts'

/** How requests arrive. */
export interface Load {
  logger: boolean
  /** Requests that the client sends at once before it waits for their responses. */
  depth: number
}

export interface Sizes {
  /**
   * Requests before counting starts. After 10,000, pipelined requests still take 3 % more instructions than after 40,000, and after
   * 40,000, those with the logger 1 % more than after 60,000. From there on the count is stable: processes with the same subject are
   * at most 0.3 % apart.
   * Part of a count remains chance, the same in each process: what V8 inlines depends on everything that is loaded.
   */
  warmUp: number
  /**
   * Requests after the garbage collection that follows the warm-up: the first 6,000 take up to 60 % more instructions than those before.
   * Too few to fill the young generation, with those of the windows.
   */
  settle: number
  /** Requests in a window. A multiple of each depth. */
  window: number
  windows: number
}

/**
 * Node without threads and with a fixed seed, a different one for each process of a subject, because with the same seed each process
 * would be optimized alike. The young generation is so large that no collection follows the forced one. (Without
 * --predictable-gc-schedule: it sets the size to 4 MB regardless of other flags, which causes six collections per window.)
 * V8 also marks old objects if a process allocates slowly, as every process under valgrind does: counts vary by 1 % with that.
 */
const FLAGS = ['--expose-gc', '--single-threaded', '--no-memory-reducer', '--no-incremental-marking', '--min-semi-space-size=128', '--max-semi-space-size=128']

/** Per request, of the median window. */
export async function countInstructions (
  directory: string, subject: string, { logger, depth }: Load, sizes: Sizes, seed: number
): Promise<number> {
  const out = join(mkdtempSync(join(directory, 'callgrind-')), 'out')
  // Without counting, valgrind is several times faster, which makes the long warm-up affordable.
  const under = ['valgrind', '--tool=callgrind', '--instr-atstart=no', `--callgrind-out-file=${out}`, '--smc-check=all-non-file']
  const program = await Program.start({ directory, subject, logger, flags: [...FLAGS, `--hash-seed=${seed}`, `--random-seed=${seed}`], under })
  const control = async (option: string) => await promisify(execFile)('callgrind_control', [option, String(program.pid)])
  const ask = await client(program.port, depth)
  await ask(sizes.warmUp)
  await program.ask('heapUsed')
  await ask(sizes.settle)
  await control('--instr=on')
  // The first window is discarded, because valgrind translates all code anew.
  for (let window = 0; window <= sizes.windows; window++) {
    await ask(sizes.window)
    await control('--dump')
  }
  await program.end()
  const counts = Array.from({ length: sizes.windows }, (_, index) => {
    const text = readFileSync(`${out}.${index + 2}`, 'utf8')
    return Math.round(Number(/^summary: (\d+)$/m.exec(text)?.[1]) / sizes.window)
  })
  return median(counts)
}

/** Sends `depth` requests at once over one connection, and the next ones as soon as all of them are answered. */
async function client (port: number, depth: number): Promise<(requests: number) => Promise<void>> {
  const socket = connect(port, '127.0.0.1').setNoDelay()
  await once(socket, 'connect')
  const receive = async () => (await once(socket, 'data') as [Buffer])[0].length
  socket.write(REQUEST)
  const expected = depth * await receive()
  const batch = REQUEST.repeat(depth)
  return async requests => {
    for (let sent = 0; sent < requests; sent += depth) {
      socket.write(batch)
      for (let received = 0; received < expected;) received += await receive()
    }
  }
}
