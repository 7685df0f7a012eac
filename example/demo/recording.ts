// What is seen of one run, for the live rows, the table and the picture. All times are milliseconds since the epoch:
// the service stamps its log lines so, and both processes read the same clock.

import type { Phase, ShutdownReport } from '../../index.ts'

/**
 * How a request ended. `answered` in full, as asked; `refused` by the gate, with its 503; `turned away` because
 * the port is closed (connection refused), which never happens behind a load balancer that has removed the instance; `lost` is
 * everything else: a reset, a truncated body, a time-out, another status.
 */
export type Outcome = 'answered' | 'refused' | 'turned away' | 'lost'

/** A request. */
export interface Call {
  method: 'GET' | 'POST'
  start: number
  end: number | undefined
  outcome: Outcome | undefined
  /** Why it is lost. */
  detail: string
}

/** One of the requests that are in flight when the signal comes. */
export interface InFlightCall extends Call {
  /** What it wrote, as the answer has it. */
  note: { id: number, text: string } | undefined
}

/** The answer of a probe: a status, or undefined if there was none. */
export interface ProbeSample {
  at: number
  path: '/health' | '/ready'
  status: number | undefined
}

export interface Recording {
  load: InFlightCall[]
  /** New requests, sent one after another until the end. */
  knocks: Call[]
  probes: ProbeSample[]
  /** The phases, each with its beginning, as the service's log tells. */
  phases: Array<{ phase: Phase, at: number }>
  /** The service's own report of its shutdown. */
  report: ShutdownReport | undefined
  /** Requests in flight when the signal was sent, as the readiness probe counts them. */
  inFlight: number
  signalAt: number
  exitAt: number
  exitCode: number | null
  /** The service had to be ended by force. */
  killed: boolean
}

export function newRecording (): Recording {
  return {
    load: [],
    knocks: [],
    probes: [],
    phases: [],
    report: undefined,
    inFlight: 0,
    signalAt: NaN,
    exitAt: NaN,
    exitCode: null,
    killed: false
  }
}

export function count (calls: readonly Call[], outcome: Outcome): number {
  return calls.filter(call => call.outcome === outcome).length
}

/** Requests that were sent and have not ended, at a time; those that are turned away never were in flight. */
export function underWay ({ load, knocks }: Recording, at: number): number {
  return [...load, ...knocks].filter(({ start, end, outcome }) =>
    start <= at && (end === undefined || end > at) && outcome !== 'turned away').length
}
