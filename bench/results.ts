// What was measured, and the limits on it.

import type { Costs, Growth } from './growth.ts'
import type { Load } from './instructions.ts'
import type { Loading, Start } from './loading.ts'
import type { Memory } from './memory.ts'
import type { Refusals, Throughput } from './throughput.ts'
import { median } from './numbers.ts'
import { BARE, OURS, PAIR, WATCHED } from './subjects.ts'

export const PARTS = ['instructions', 'throughput', 'exit', 'memory', 'refusals', 'growth', 'loading'] as const
export type Part = typeof PARTS[number]

/** How requests arrive while instructions are counted, by the name in tables and charts. */
export const LOADS = {
  'without a logger': { logger: false, depth: 1 },
  'with the logger': { logger: true, depth: 1 },
  'without a logger, pipelined 16 deep': { logger: false, depth: 16 }
} satisfies Record<string, Load>
export type LoadName = keyof typeof LOADS

/** By subject: instructions per request, for each process. */
export type Counts = Record<string, number[]>

export interface Results {
  machine: string
  versions: Record<string, string>
  date: string
  /** The parts that were not measured, each with the missing tool. */
  notMeasured: Partial<Record<Part, string>>
  instructions?: Partial<Record<LoadName, Counts>>
  throughput?: Record<string, Throughput>
  /** By the number of idle connections, and by subject; in milliseconds. */
  exit?: Record<string, Record<string, number>>
  memory?: Record<string, Memory>
  refusals?: Refusals
  growth?: Growth[]
  loading?: Loading
}

export interface Verdict {
  what: string
  holds: boolean
}

/**
 * The budgets of the request path: at most `most` times the instructions of another subject. With the logger, counts vary by about as
 * much as is left of the budget, because V8 does not optimize each process alike. So only what exceeds `guard` fails.
 */
export const BUDGETS: ReadonlyArray<{ load: LoadName, than: string, most: number, guard: number }> = [
  { load: 'without a logger', than: PAIR, most: 1.03, guard: 1.05 },
  { load: 'with the logger', than: BARE, most: 1.015, guard: 1.04 },
  { load: 'without a logger, pipelined 16 deep', than: PAIR, most: 1.03, guard: 1.06 }
]
/** Subscribers on the diagnostics channels may cost a request this many times as much: what is left to chance. */
const MOST_WATCHED = 1.005
/** With the logger, the plugin takes fewer instructions than these packages. */
const EXCEEDED_BY = ['@godaddy/terminus', '@fastify/under-pressure']

const MOST_EXIT: Record<string, number> = { 0: 1.1, 10_000: 1.5 }
const MOST_BYTES = 400
/** Milliseconds more than an empty plugin. */
const MOST_START: Start = { import: 15, register: 3 }
/** With ten times as many connections, a linear cost may be ten times as high, plus a quarter because times are not exact. */
const LINEAR = 10 * 1.25
/** From this number of connections on, their share of the exit time is much larger than its variation of some milliseconds. */
const MIN_CONNECTIONS = 1_000
/** A constant cost may be this many times what it is with the fewest connections. */
const CONSTANT = 2

/** One verdict for each limit on a measured part. */
export function judge (results: Results): Verdict[] {
  return [
    ...judgeInstructions(results),
    ...judgeExit(results),
    ...judgeMemory(results),
    ...judgeRefusals(results),
    ...judgeGrowth(results),
    ...judgeLoading(results)
  ]
}

function judgeInstructions ({ instructions = {} }: Results): Verdict[] {
  const limits = [...BUDGETS, ...EXCEEDED_BY.map(than => ({ load: 'with the logger', than, most: 1 }) as const)]
  return limits.flatMap(({ load, than, most }) => {
    const counts = instructions[load]
    return counts?.[than] === undefined ? [] : [atMost(`instructions a request, ${load}`, medians(counts), OURS, than, most)]
  }).concat(Object.entries(instructions).filter(([, counts]) => WATCHED in counts).map(([load, counts]) =>
    atMost(`instructions a request, ${load}, with subscribers`, medians(counts), WATCHED, OURS, MOST_WATCHED)))
}

function judgeExit ({ exit = {} }: Results): Verdict[] {
  return Object.entries(exit).map(([idle, times]) =>
    atMost(`SIGTERM → process gone, ${idle} idle connections`, times, OURS, BARE, MOST_EXIT[idle] ?? 1))
}

function judgeMemory ({ memory }: Results): Verdict[] {
  if (memory === undefined) return []
  const more = (what: string, state: keyof Memory, than: string) => {
    const bytes = (memory[OURS]?.[state] ?? NaN) - (memory[than]?.[state] ?? NaN)
    return { what: `memory: ${bytes} bytes for ${what} more than ${than}, at most ${MOST_BYTES}`, holds: bytes <= MOST_BYTES }
  }
  // The pair of hooks makes Fastify itself keep more for a request in flight.
  return [more('an idle connection', 'idle', BARE), more('a request in flight', 'inFlight', PAIR)]
}

function judgeRefusals ({ refusals }: Results): Verdict[] {
  if (refusals === undefined) return []
  const { refused: { requestsPerSecond: refused }, helloWorld: { requestsPerSecond: served } } = refusals
  return [{ what: `refusals a second: ${refused}, hello worlds of ${BARE} over as many connections: ${served}`, holds: refused >= served }]
}

function judgeGrowth ({ growth = [] }: Results): Verdict[] {
  const verdicts: Verdict[] = []
  const compare = (before: Growth, after: Growth, what: string, factor: number, most: number) => {
    verdicts.push({ what: `growth, ${what}, ${before.connections} → ${after.connections}: × ${factor.toFixed(2)}, at most ${most}`, holds: factor > 0 && factor <= most })
  }
  const [fewest, ...others] = growth
  if (fewest === undefined) return []
  for (const what of ['goneFromIdle', 'goneFromInFlight'] satisfies Array<keyof Costs>) {
    const added = ({ ours }: Growth) => ours[what] - fewest.ours[what]
    for (const [index, after] of others.entries()) {
      const before = growth[index]
      if (before === undefined) continue
      compare(before, after, what, after.ours[what] / before.ours[what], LINEAR)
      // Without the time that the exit itself takes.
      if (before.connections >= MIN_CONNECTIONS) compare(before, after, `${what}, added`, added(after) / added(before), LINEAR)
    }
  }
  for (const many of others) {
    for (const what of ['besideIdle', 'besideInFlight'] satisfies Array<keyof Costs>) {
      compare(fewest, many, what, many.ours[what] / fewest.ours[what], CONSTANT)
    }
    compare(fewest, many, 'read', many.read / fewest.read, CONSTANT)
  }
  return verdicts
}

function judgeLoading ({ loading }: Results): Verdict[] {
  if (loading === undefined) return []
  const { ours, empty } = loading
  return (['import', 'register'] as const).map(step => {
    const more = ours[step] - empty[step]
    return { what: `start, ${step}: ${more.toFixed(1)} ms more than an empty plugin, at most ${MOST_START[step]}`, holds: more <= MOST_START[step] }
  })
}

/** The median over the processes of each subject. */
export function medians (counts: Counts): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).map(([subject, processes]) => [subject, median(processes)]))
}

/** How far apart the processes of a subject are, in percent of their median. */
export function spread (processes: readonly number[]): number {
  return (Math.max(...processes) - Math.min(...processes)) / median(processes) * 100
}

function atMost (what: string, figures: Record<string, number>, ours: string, others: string, most: number): Verdict {
  const factor = (figures[ours] ?? NaN) / (figures[others] ?? NaN)
  return { what: `${what}: ${factor.toFixed(3)} × ${others}, at most ${most}`, holds: factor <= most }
}
