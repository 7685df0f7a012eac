// A rolling update: each pod in turn is replaced. Only what is sent to a pod on its way out can be lost.

import type { Outcome, PodSettings, Request } from './pod.ts'
import { OUTCOMES, terminate, timeline } from './pod.ts'
import { Random } from './random.ts'

export interface Rollout {
  pods: number
  maxSurge: number
  /** Milliseconds until a new pod listens, and its readiness probe's period. */
  startUp: number
  probePeriod: number
  /** Nodes (kube-proxy, ingress, …), each of which hears of the removal by itself. */
  proxies: number
  /** Requests a second to each pod. */
  rate: number
  /** When a proxy hears of the removal, in milliseconds since it began. */
  propagation: (random: Random, settings: PodSettings) => number
  /** Milliseconds that a request takes, and the longest that a proxy waits for one. */
  median: number
  longest: number
  settings: PodSettings
}

/** Endpoint removal reaches each proxy late, and each at another time, at the latest after `most` milliseconds. */
export function lateAndUneven (most: number): Rollout['propagation'] {
  return random => random.between(0, most)
}

/** A balancer's active checks: `fall` of them must fail, one every `inter` milliseconds, from when /ready says 503. */
export function checked (inter: number, fall: number): Rollout['propagation'] {
  return (random, { preStop }) => preStop + random.between(0, inter) + (fall - 1) * inter
}

/** Milliseconds on the way from a proxy to a pod, at most. */
const ON_THE_WAY = 20
/** How much durations vary: with this, 1 % take more than ten times the median. */
const SPREAD = 1

export interface Result {
  outcomes: Record<Outcome, number>
  lost: number
  /** How long the update takes. */
  time: number
}

export function simulate (rollout: Rollout, seed: number): Result {
  const random = new Random(seed)
  const outcomes = Object.fromEntries(OUTCOMES.map(outcome => [outcome, 0])) as Result['outcomes']
  let goneAfter = 0
  for (let pod = 0; pod < rollout.pods; pod++) {
    const requests = requestsToOnePod(rollout, random)
    for (const outcome of terminate(rollout.settings, requests)) outcomes[outcome]++
    goneAfter = timeline(rollout.settings, requests).closing
  }
  const { pods, maxSurge, startUp, probePeriod } = rollout
  const lost = OUTCOMES.reduce((sum, outcome) => outcome === 'served' ? sum : sum + outcomes[outcome], 0)
  return { outcomes, lost, time: Math.ceil(pods / maxSurge) * (startUp + probePeriod) + goneAfter }
}

function requestsToOnePod ({ proxies, rate, propagation, median, longest, settings }: Rollout, random: Random): Request[] {
  const requests: Request[] = []
  for (let proxy = 0; proxy < proxies; proxy++) {
    const heard = propagation(random, settings)
    for (let sent = -longest; ; ) {
      sent += random.untilNext(rate / proxies / 1_000)
      if (sent >= heard) break
      const duration = Math.min(longest, random.logNormal(median, SPREAD))
      const at = sent + random.between(0, ON_THE_WAY)
      if (at + duration > 0) requests.push({ at, duration })
    }
  }
  return requests
}
