// When a rolling update deletes the old pods, and when the new ones are ready, as a Deployment's controller decides.

import type { Random } from './random.ts'

export interface Update {
  pods: number
  /** How many more pods than `pods` may exist, and how many fewer may be ready. Not both 0. */
  maxSurge: number
  maxUnavailable: number
  /** Milliseconds until a new pod listens; it is ready at the next readiness probe. */
  startUp: number
  probePeriod: number
}

export interface Schedule {
  /** When each old pod is deleted, and when each new one is ready, in milliseconds since the update began, in order. */
  deleted: number[]
  ready: number[]
}

export function schedule ({ pods, maxSurge, maxUnavailable, startUp, probePeriod }: Update, random: Random): Schedule {
  if (maxSurge + maxUnavailable < 1) throw new RangeError('maxSurge and maxUnavailable must not both be 0')
  const deleted: number[] = []
  const ready: number[] = []
  const starting: number[] = []
  for (let now = 0; ;) {
    // Terminating pods count for neither limit.
    while (deleted.length < pods && pods - deleted.length + ready.length > pods - maxUnavailable) deleted.push(now)
    while (ready.length + starting.length < pods && pods - deleted.length + ready.length + starting.length < pods + maxSurge) {
      starting.push(now + startUp + random.between(0, probePeriod))
    }
    if (starting.length === 0) return { deleted, ready }
    starting.sort((a, b) => b - a)
    now = starting.pop() ?? now
    ready.push(now)
  }
}
