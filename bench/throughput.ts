// Requests per second and the 99th percentile of their latency, measured by wrk. The subjects take turns, because the speed of a
// machine changes from one minute to the next.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { inFlight } from './clients.ts'
import { median } from './numbers.ts'
import { Program } from './program.ts'
import { BARE, OURS } from './subjects.ts'

export interface Throughput {
  requestsPerSecond: number
  /** Milliseconds. */
  p99: number
}

export interface Plan {
  rounds: number
  seconds: number
}

const CONNECTIONS = 40
const UNITS: Record<string, number> = { us: 1 / 1_000, ms: 1, s: 1_000 }

/** Over keep-alive connections, all subjects in turn. */
export async function measureThroughput (directory: string, subjects: readonly string[], plan: Plan): Promise<Record<string, Throughput>> {
  const rounds: Record<string, Throughput[]> = Object.fromEntries(subjects.map(subject => [subject, []]))
  for (let round = 0; round < plan.rounds; round++) {
    for (const subject of rotated(subjects, round)) {
      rounds[subject]?.push(await warmLoad(await Program.start({ directory, subject }), plan.seconds))
    }
  }
  return Object.fromEntries(Object.entries(rounds).map(([subject, results]) => [subject, middle(results)]))
}

export interface Refusals {
  refused: Throughput
  /** The hello world of bare Fastify over as many connections. Each response closes its connection, as a rejection does. */
  helloWorld: Throughput
  /** The same over keep-alive connections. A rejection always closes its connection. */
  keptAlive: Throughput
}

/** Rejections per second while a request is still in flight. */
export async function measureRefusals (directory: string, { rounds, seconds }: Plan): Promise<Refusals> {
  const results: Record<keyof Refusals, Throughput[]> = { refused: [], helloWorld: [], keptAlive: [] }
  for (let round = 0; round < rounds; round++) {
    results.keptAlive.push(await warmLoad(await Program.start({ directory, subject: BARE }), seconds))
    results.helloWorld.push(await warmLoad(await Program.start({ directory, subject: BARE }), seconds, CLOSE))
    const ours = await Program.start({ directory, subject: OURS })
    await inFlight(ours, 1, '/stuck')
    ours.kill('SIGTERM')
    results.refused.push(await warmLoad(ours, seconds, CLOSE))
  }
  return { refused: middle(results.refused), helloWorld: middle(results.helloWorld), keptAlive: middle(results.keptAlive) }
}

const CLOSE = ['-H', 'Connection: close']

/** Measures after a second of warm-up, then ends the program. */
async function warmLoad (program: Program, seconds: number, options: readonly string[] = []): Promise<Throughput> {
  await load(program.port, 1, options)
  const result = await load(program.port, seconds, options)
  await program.end()
  return result
}

/** Starts with another subject in each round. */
function rotated (subjects: readonly string[], by: number): string[] {
  const first = by % subjects.length
  return [...subjects.slice(first), ...subjects.slice(0, first)]
}

async function load (port: number, seconds: number, options: readonly string[] = []): Promise<Throughput> {
  const args = ['-t1', `-c${CONNECTIONS}`, `-d${seconds}s`, '--latency', ...options, `http://127.0.0.1:${port}/`]
  const { stdout } = await promisify(execFile)('wrk', args)
  const [, time = '', unit = ''] = /99%\s+([\d.]+)(us|ms|s)/.exec(stdout) ?? []
  const result = { requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]), p99: Number(time) * (UNITS[unit] ?? NaN) }
  if (!(result.requestsPerSecond > 0)) throw new Error(`wrk says:\n${stdout}`)
  return result
}

function middle (results: readonly Throughput[]): Throughput {
  return {
    requestsPerSecond: Math.round(median(results.map(({ requestsPerSecond }) => requestsPerSecond))),
    p99: Number(median(results.map(({ p99 }) => p99)).toFixed(2))
  }
}
