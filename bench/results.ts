// What was measured, and what it must show.

import type { Costs, Growth } from './growth.ts'
import type { Memory } from './memory.ts'
import type { Refusals, Throughput } from './throughput.ts'
import { median } from './numbers.ts'
import { BARE, OURS, PAIR } from './subjects.ts'

export const PARTS = ['instructions', 'throughput', 'exit', 'memory', 'refusals', 'growth'] as const
export type Part = typeof PARTS[number]

export interface Results {
  machine: string
  versions: Record<string, string>
  date: string
  /** What was not measured, and the tool that it takes. */
  notMeasured: Partial<Record<Part, string>>
  /** By subject: of each process, without and with the logger. */
  instructions?: Record<string, number[]>
  instructionsWithLogger?: Record<string, number[]>
  throughput?: Record<string, Throughput>
  /** By the number of idle connections, and by subject; in milliseconds. */
  exit?: Record<string, Record<string, number>>
  memory?: Record<string, Memory>
  refusals?: Refusals
  growth?: Growth[]
}

/** Those whose code a request goes through. */
export const TOUCHES_REQUESTS = ['@godaddy/terminus', 'http-graceful-shutdown', '@fastify/under-pressure']

export interface Verdict {
  what: string
  holds: boolean
}

const MOST_INSTRUCTIONS = 1.01
const MOST_EXIT: Record<string, number> = { 0: 1.1, 10_000: 1.5 }
const MOST_BYTES = 200
/** How much more than ten times as much it may be at ten times as many: times are not exact. */
const LINEAR = 10 * 1.25
/** Connections from which on what they add to an exit is much more than its own variation, which is some milliseconds. */
const ENOUGH = 1_000
/** How much more than with the fewest connections what is constant may be with any number of them. */
const CONSTANT = 2

/** Each promise that what was measured can show. */
export function judge (results: Results): Verdict[] {
  return [
    ...judgeInstructions(results),
    ...judgeExit(results),
    ...judgeMemory(results),
    ...judgeRefusals(results),
    ...judgeGrowth(results)
  ]
}

function judgeInstructions ({ instructions, instructionsWithLogger }: Results): Verdict[] {
  const verdicts: Verdict[] = []
  if (instructions !== undefined) verdicts.push(atMost('instructions a request', medians(instructions), OURS, PAIR, MOST_INSTRUCTIONS))
  if (instructionsWithLogger !== undefined) {
    const counts = medians(instructionsWithLogger)
    verdicts.push(atMost('instructions a request, with the logger', counts, OURS, BARE, MOST_INSTRUCTIONS))
    for (const peer of TOUCHES_REQUESTS) verdicts.push(atMost('instructions a request, with the logger', counts, OURS, peer, 1))
  }
  return verdicts
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
  // What Fastify itself keeps for a request that hooks wait for is not the plugin's.
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
      // The exit itself takes its time, too: less that.
      if (before.connections >= ENOUGH) compare(before, after, `${what}, added`, added(after) / added(before), LINEAR)
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

/** Of the processes of each subject. */
export function medians (counts: Record<string, number[]>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).map(([subject, processes]) => [subject, median(processes)]))
}

function atMost (what: string, figures: Record<string, number>, ours: string, others: string, most: number): Verdict {
  const factor = (figures[ours] ?? NaN) / (figures[others] ?? NaN)
  return { what: `${what}: ${factor.toFixed(3)} × ${others}, at most ${most}`, holds: factor <= most }
}
