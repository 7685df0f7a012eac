// One pod that terminates, and what happens to each request. All times are milliseconds since the pod was deleted, which
// is when endpoint removal starts. The plugin itself cannot run in simulated time, because its connections are real. So
// this file models its timeline; test/system/simulation.test.ts compares it with the plugin.

import type { Options } from '../../lib/options.ts'
import { QUIET } from '../../lib/times.ts'

export interface PodSettings {
  /** The plugin's options after validation. */
  options: Pick<Options, 'shutdownDelay' | 'drainTimeout' | 'shutdownTimeout'>
  /** The sleep before SIGTERM; it is part of the grace period. */
  preStop: number
  /** terminationGracePeriodSeconds: the time until SIGKILL. */
  grace: number
}

export interface Request {
  /** When it reaches the pod. */
  at: number
  duration: number
}

export const OUTCOMES = ['served', 'refused', 'connection refused', 'cut', 'killed', 'no pod'] as const
export type Outcome = typeof OUTCOMES[number]

/** How long the delay takes, given these requests and when it starts. It is over when no request has arrived for `quiet`. */
function delayOf ({ max, quiet }: Options['shutdownDelay'], requests: readonly Request[], start: number): number {
  // A fixed delay.
  if (quiet >= max) return max
  let last = 0
  for (const at of requests.map(request => request.at - start).sort((a, b) => a - b)) {
    if (at > last + quiet) break
    last = Math.max(last, at)
  }
  return Math.min(last + quiet, max)
}

/** When the phases of a pod's shutdown begin, given these requests; `closing` at the latest. `end` is the forced exit. */
export function timeline ({ options, preStop, grace }: PodSettings, requests: readonly Request[]) {
  const { shutdownDelay, drainTimeout, shutdownTimeout } = options
  const draining = preStop + delayOf(shutdownDelay, requests, preStop)
  const drainOver = draining + drainTimeout
  let last = draining
  for (const { at, duration } of requests) if (at < draining) last = Math.max(last, at + duration)
  const closing = Math.min(last + QUIET.most, drainOver, grace)
  return { draining, drainOver, closing, grace, end: Math.min(preStop + shutdownTimeout, grace) }
}

/** What happens to a request. */
export function meets ({ draining, drainOver, closing, grace }: ReturnType<typeof timeline>, { at, duration }: Request): Outcome {
  if (at >= closing) return 'connection refused'
  if (at >= draining) return 'refused'
  if (at + duration > grace) return 'killed'
  return at + duration > drainOver ? 'cut' : 'served'
}
