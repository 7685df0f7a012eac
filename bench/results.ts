// What was measured, and what it must show.

import type { Growth } from './growth.ts'
import type { Memory } from './memory.ts'
import type { Refusals, Throughput } from './throughput.ts'
import { BARE, OURS, PAIR } from './subjects.ts'

export interface Results {
  machine: string
  versions: Record<string, string>
  date: string
  /** What was not measured, and the tool that it takes. */
  notMeasured: Record<string, string>
  /** By subject, without and with the logger. */
  instructions?: Record<string, number>
  instructionsWithLogger?: Record<string, number>
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
/** The same, from the fewest connections to the most: ten thousand times as many. */
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
  if (instructions !== undefined) verdicts.push(atMost('instructions a request', instructions, OURS, PAIR, MOST_INSTRUCTIONS))
  if (instructionsWithLogger !== undefined) {
    verdicts.push(atMost('instructions a request, with the logger', instructionsWithLogger, OURS, BARE, MOST_INSTRUCTIONS))
    for (const peer of TOUCHES_REQUESTS) verdicts.push(atMost('instructions a request, with the logger', instructionsWithLogger, OURS, peer, 1))
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
  const compare = (before: Growth, after: Growth, what: keyof Growth, most: number) => {
    const factor = after[what] / before[what]
    verdicts.push({ what: `growth, ${what}, ${before.connections} → ${after.connections}: × ${factor.toFixed(2)}, at most ${most}`, holds: factor <= most })
  }
  for (const [index, after] of growth.entries()) {
    const before = growth[index - 1]
    if (before === undefined) continue
    compare(before, after, 'goneFromIdle', LINEAR)
    compare(before, after, 'goneFromInFlight', LINEAR)
  }
  const [fewest] = growth
  const most = growth.at(-1)
  if (fewest !== undefined && most !== undefined) {
    compare(fewest, most, 'request', CONSTANT)
    compare(fewest, most, 'read', CONSTANT)
  }
  return verdicts
}

function atMost (what: string, figures: Record<string, number>, ours: string, others: string, most: number): Verdict {
  const factor = (figures[ours] ?? NaN) / (figures[others] ?? NaN)
  return { what: `${what}: ${factor.toFixed(3)} × ${others}, at most ${most}`, holds: factor <= most }
}
