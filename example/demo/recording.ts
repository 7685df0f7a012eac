// What is recorded of one run, for the live rows, the table and the picture. All times are milliseconds since the epoch,
// as in the service's log; both processes read the same clock.

import type { Phase, ShutdownReport } from '../../index.ts'

/**
 * How a request ended. `answered`: in full and correctly. `refused`: by the plugin, with 503. `unconnected`: the listener
 * was closed (ECONNREFUSED); a load balancer sends no requests by then. `lost`: anything else, such as a reset, a truncated
 * body, a timeout or another status.
 */
export type Outcome = 'answered' | 'refused' | 'unconnected' | 'lost'

/** A request. */
export interface Call {
  method: 'GET' | 'POST'
  start: number
  end: number | undefined
  outcome: Outcome | undefined
  /** What went wrong, if it was lost. */
  detail: string
}

/** One of the requests that are in flight when the signal comes. */
export interface InFlightCall extends Call {
  /** What it wrote, according to the response. */
  note: { id: number, text: string } | undefined
}

/** The status that a probe answered; undefined if there was no response. */
export interface ProbeSample {
  at: number
  path: '/health' | '/ready'
  status: number | undefined
}

export interface Recording {
  load: InFlightCall[]
  /** New requests, sent all the time. */
  knocks: Call[]
  probes: ProbeSample[]
  /** The phases and when each began, from the service's log. */
  phases: Array<{ phase: Phase, at: number }>
  /** The service's own report of its shutdown. */
  report: ShutdownReport | undefined
  /** Requests in flight when the signal was sent, according to the readiness probe. */
  inFlight: number
  signalAt: number
  exitAt: number
  exitCode: number | null
  /** Whether the service had to be killed. */
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

/** Requests that were sent and had not ended at that time. Those that found no listener were never in flight. */
export function underWay ({ load, knocks }: Recording, at: number): number {
  return [...load, ...knocks].filter(({ start, end, outcome }) =>
    start <= at && (end === undefined || end > at) && outcome !== 'unconnected').length
}
