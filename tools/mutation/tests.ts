// Runs a test file of a copy, and ends everything that it has started.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** These compile the sources, look at the pages or at the package, or measure what instrumentation changes. */
export const OTHER_TESTS = [
  'docs', 'hot-path', 'pictures', 'project', 'types', 'system/costs', 'system/deployments', 'system/package', 'system/release'
].map(name => `test/${name}.test.ts`)

export interface Run {
  copy: string
  node: string
  file: string
  /** All of them, if undefined. */
  tests?: readonly string[] | undefined
  limit: number
  env: Record<string, string>
}

export interface Result {
  isPassed: boolean
  isTimedOut: boolean
  /** The first test that failed; undefined if none did, or if the file failed as a whole. */
  failed: string | undefined
  /** The milliseconds that each test took. */
  times: Record<string, number>
  time: number
  output: string
}

/** Marks the environment of all processes of this run of the driver. */
const MARK = `MUTATION_RUN=${process.pid}.`
let runs = 0

process.on('exit', () => { killAll(MARK) })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => {
  console.error(`${signal}: stopping`)
  process.exit(1)
})

export async function run ({ copy, node, file, tests, limit, env }: Run): Promise<Result> {
  const temporary = mkdtempSync(join(tmpdir(), 'mutation-'))
  const tag = `${MARK}${runs++}.`
  const start = performance.now()
  const args = ['--import=./test/typescript.mjs', '--import=./tools/mutation/observe.mjs', file]
  const child = spawn(node, args, {
    cwd: copy,
    // A group of its own, because a mutant may send a signal to the whole group.
    detached: true,
    env: {
      ...process.env,
      ...env,
      // Time is limited here, for all of the file.
      TAP_TIMEOUT: '3600',
      TMPDIR: temporary,
      // Half of the time of a short test is the compilation of packages.
      NODE_COMPILE_CACHE: join(tmpdir(), 'fastify-graceful-mutation'),
      MUTATION_RUN: tag.slice(tag.indexOf('=') + 1),
      ...(tests === undefined ? {} : { TAP_GREP: `/^(?:${tests.map(name => name.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')).join('|')})$/` })
    },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk
      // The rest of a file is not needed once one of its tests has failed. Tap's own bail fails if tests run at the same time.
      if (/^not ok /m.test(output)) child.kill('SIGKILL')
    })
  }
  let isTimedOut = false
  const timer = setTimeout(() => {
    isTimedOut = true
    child.kill('SIGKILL')
  }, limit)
  const closed = once(child, 'close')
  const [code] = await once(child, 'exit') as [number | null]
  clearTimeout(timer)
  // Programs that the test has left behind hold its output open.
  killAll(tag)
  await closed
  const time = performance.now() - start
  rmSync(temporary, { recursive: true, force: true, maxRetries: 3 })
  const lines = [...output.matchAll(/^(ok|not ok) \d+ - (.*?)(?: # time=([\d.]+)ms)?(?: \{)?$/gm)]
    .map(([, status, name = '', ms = '0']) => ({ isOk: status === 'ok', name: name.replaceAll('\\#', '#').replaceAll('\\\\', '\\'), ms: Number(ms) }))
  return {
    isPassed: code === 0 && !isTimedOut,
    isTimedOut,
    failed: lines.find(({ isOk }) => !isOk)?.name,
    times: Object.fromEntries(lines.filter(({ isOk }) => isOk).map(({ name, ms }) => [name, ms])),
    time,
    output
  }
}

/** Ends what a run has left behind: processes that have inherited a variable which begins so. Linux only. */
function killAll (tag: string): void {
  if (process.platform !== 'linux') return
  for (const pid of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').some(variable => variable.startsWith(tag))) process.kill(Number(pid), 'SIGKILL')
    } catch {
      // It has exited, or belongs to another user.
    }
  }
}
