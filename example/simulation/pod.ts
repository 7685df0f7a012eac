// One pod on its way out: what each request meets, by the plugin's own times. All in milliseconds since the pod was
// deleted, which is when endpoint removal starts.

import type { Options } from '../../lib/options.ts'
import { QUIET } from '../../lib/shutdown.ts'

export interface PodSettings {
  /** As the plugin resolves them. */
  options: Options
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

export const OUTCOMES = ['served', 'refused', 'nobody listens', 'cut', 'killed'] as const
export type Outcome = typeof OUTCOMES[number]

/** When the phases of a pod's shutdown begin, for these requests; closing as late as it may. */
export function timeline ({ options, preStop, grace }: PodSettings, requests: readonly Request[]) {
  const { shutdownDelay, drainTimeout } = options
  const delaying = preStop
  const draining = delaying + shutdownDelay
  const drainOver = draining + drainTimeout
  let last = draining
  for (const { at, duration } of requests) if (at < draining) last = Math.max(last, at + duration)
  const closing = Math.min(last + QUIET.milliseconds, drainOver, grace)
  return { delaying, draining, drainOver, closing, grace }
}

/** What each request meets. */
export function terminate (settings: PodSettings, requests: readonly Request[]): Outcome[] {
  const { draining, drainOver, closing, grace } = timeline(settings, requests)
  return requests.map(({ at, duration }) => {
    if (at >= closing) return 'nobody listens'
    if (at >= draining) return 'refused'
    if (at + duration > grace) return 'killed'
    return at + duration > drainOver ? 'cut' : 'served'
  })
}
