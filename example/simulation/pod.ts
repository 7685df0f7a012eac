// One pod on its way out: what each request meets. All in milliseconds since the pod was deleted, which is when endpoint
// removal starts. The plugin itself cannot run in simulated time, for its connections are real ones; so this is its
// time-line in short, and test/simulation.test.ts holds it against the plugin, phase by phase and answer by answer.

import type { Options } from '../../lib/options.ts'
import { QUIET } from '../../lib/times.ts'

export interface PodSettings {
  /** As the plugin resolves them. */
  options: Pick<Options, 'shutdownDelay' | 'drainTimeout' | 'shutdownTimeout'>
  /** Sleep before SIGTERM; it counts into the grace period. */
  preStop: number
  /** terminationGracePeriodSeconds: SIGKILL. */
  grace: number
}

export interface Request {
  /** When it reaches the pod. */
  at: number
  duration: number
}

export const OUTCOMES = ['served', 'refused', 'nobody listens', 'cut', 'killed', 'no pod'] as const
export type Outcome = typeof OUTCOMES[number]

/** When the phases of a pod's shutdown begin, for these requests; closing as late as it may. `end` is the forced exit. */
export function timeline ({ options, preStop, grace }: PodSettings, requests: readonly Request[]) {
  const { shutdownDelay, drainTimeout, shutdownTimeout } = options
  const draining = preStop + shutdownDelay
  const drainOver = draining + drainTimeout
  let last = draining
  for (const { at, duration } of requests) if (at < draining) last = Math.max(last, at + duration)
  const closing = Math.min(last + QUIET.most, drainOver, grace)
  return { draining, drainOver, closing, grace, end: Math.min(preStop + shutdownTimeout, grace) }
}

/** What a request meets. */
export function meets ({ draining, drainOver, closing, grace }: ReturnType<typeof timeline>, { at, duration }: Request): Outcome {
  if (at >= closing) return 'nobody listens'
  if (at >= draining) return 'refused'
  if (at + duration > grace) return 'killed'
  return at + duration > drainOver ? 'cut' : 'served'
}
