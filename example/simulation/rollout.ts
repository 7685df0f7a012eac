// A rolling update: each pod is replaced. A request is lost if it reaches a terminating pod too late, if it takes longer
// than the pod waits, or if there is no pod for it.

import type { Outcome, PodSettings, Request } from './pod.ts'
import type { Schedule, Update } from './schedule.ts'
import { meets, OUTCOMES, timeline } from './pod.ts'
import { Random } from './random.ts'
import { schedule } from './schedule.ts'

export interface Rollout extends Update {
  /** Proxies (kube-proxy, ingress, …); each of them learns of a removal separately. */
  proxies: number
  /** Requests a second to each pod, through the proxies. */
  rate: number
  /** How many connections to each pod clients keep open, and for how many milliseconds a connection is idle at most. */
  connections: number
  pause: number
  /** For one proxy: how many milliseconds after a pod is deleted, or is ready, the proxy learns of it. */
  propagation: (random: Random, settings: PodSettings) => (at: number) => number
  /** The median and the longest duration of a request, in milliseconds; one request in a thousand takes the longest. */
  median: number
  longest: number
  /** How many milliseconds the shutdown callbacks take. */
  cleanup: number
  settings: PodSettings
}

/** Each proxy receives all changes once every `most` milliseconds, at a different time than the others. */
export function lateAndUneven (most: number): Rollout['propagation'] {
  return random => {
    const first = random.between(0, most)
    return at => most === 0 ? 0 : most - (at + first) % most
  }
}

/** A load balancer's active checks: one every `inter` milliseconds; `fall` of them must fail after /ready has turned to 503. */
export function checked (inter: number, fall: number): Rollout['propagation'] {
  return (random, { preStop }) => () => preStop + random.between(0, inter) + (fall - 1) * inter
}

/** How many milliseconds a request needs to reach a pod, at most. */
export const ON_THE_WAY = 20
/** How much durations vary: with this value, 1 % of them are longer than ten times the median. */
const SPREAD = 1
const LONGEST_ONE_IN = 1_000

export interface Result {
  outcomes: Record<Outcome, number>
  lost: number
  /** Pods that were killed before their cleanup was done. */
  unclean: number
  /** The median of the pods' delays, in milliseconds. */
  delay: number
  /** The most pods that were terminating at once. */
  leaving: number
  /** Milliseconds until the last new pod is ready and the last old one has terminated. */
  time: number
  /** The same if each pod is replaced only once the one before it is ready, and its own predecessor has terminated, as in a StatefulSet. */
  timeInPlace: number
}

export function simulate (rollout: Rollout, seed: number): Result {
  return outcomeOf(rollout, trafficOf(rollout, seed))
}

/** A rolling update and the requests that reach its old pods. */
interface Traffic {
  update: Schedule
  proxies: ReadonlyArray<(at: number) => number>
  /** For each old pod, what the proxies send to it and what arrives on its open connections. */
  pods: Array<{ deleted: number, fromProxies: Request[], onOpen: Request[] }>
}

/** It depends on none of the settings but preStop, so it can be used again with other ones. */
export function trafficOf (rollout: Rollout, seed: number): Traffic {
  const random = new Random(seed)
  const update = schedule(rollout, random)
  const proxies = Array.from({ length: rollout.proxies }, () => rollout.propagation(random, rollout.settings))
  const pods = update.deleted.map(deleted => ({
    deleted,
    fromProxies: requestsOfProxies(rollout, proxies.map(delayOf => delayOf(deleted)), random),
    onOpen: Array.from({ length: rollout.connections }, () => requestsOnConnection(rollout, random)).flat()
  }))
  return { update, proxies, pods }
}

/** What happens to this traffic. */
export function outcomeOf (rollout: Rollout, { update, proxies, pods }: Traffic): Result {
  const outcomes = Object.fromEntries(OUTCOMES.map(outcome => [outcome, 0])) as Result['outcomes']
  let unclean = 0
  const delays: number[] = []
  const stays: Array<[from: number, to: number]> = []
  for (const { deleted, fromProxies, onOpen } of pods) {
    const phases = timeline(rollout.settings, [...fromProxies, ...onOpen])
    delays.push(phases.draining - rollout.settings.preStop)
    for (const request of fromProxies) outcomes[meets(phases, request)]++
    for (const request of onOpen) {
      // The client sees the connection close and uses another pod, except for a request that is being sent at that moment.
      const elsewhere = request.at >= phases.closing + ON_THE_WAY
      outcomes[elsewhere ? 'served' : meets(phases, request)]++
    }
    const gone = phases.closing + rollout.cleanup
    if (gone > phases.end) unclean++
    stays.push([deleted, deleted + Math.min(gone, phases.end)])
  }
  outcomes['no pod'] = unroutable(rollout, update, proxies)
  const lost = OUTCOMES.reduce((sum, outcome) => outcome === 'served' ? sum : sum + outcomes[outcome], 0)
  const time = Math.max(update.ready.at(-1) ?? 0, ...stays.map(([, to]) => to))
  const delay = delays.toSorted((a, b) => a - b)[Math.floor(delays.length / 2)] ?? 0
  const timeInPlace = stays.reduce((sum, [from, to]) => sum + to - from + rollout.startUp, 0)
  return { outcomes, lost, unclean, delay, leaving: mostAtOnce(stays), time, timeInPlace }
}

function duration ({ median, longest }: Rollout, random: Random): number {
  return random.next() < 1 / LONGEST_ONE_IN ? longest : Math.min(longest, random.logNormal(median, SPREAD))
}

/** What the proxies send to one pod, each until it learns of the removal. */
function requestsOfProxies (rollout: Rollout, learned: readonly number[], random: Random): Request[] {
  const requests: Request[] = []
  for (const until of learned) {
    for (let sent = -rollout.longest; ;) {
      sent += random.untilNext(rollout.rate / rollout.proxies / 1_000)
      if (sent >= until) break
      const request = { at: sent + random.between(0, ON_THE_WAY), duration: duration(rollout, random) }
      if (request.at + request.duration > 0) requests.push(request)
    }
  }
  return requests
}

/** The requests on an open connection, until a response says `Connection: close`, as all responses after SIGTERM do. */
function requestsOnConnection (rollout: Rollout, random: Random): Request[] {
  const requests: Request[] = []
  for (let at = random.between(0, rollout.pause); ;) {
    const request = { at, duration: duration(rollout, random) }
    requests.push(request)
    const answered = request.at + request.duration
    if (answered >= rollout.settings.preStop) return requests
    at = answered + random.between(0, rollout.pause)
  }
}

/** How many requests arrive at proxies that know of no ready pod. */
function unroutable ({ pods, rate }: Rollout, { deleted, ready }: Schedule, proxies: ReadonlyArray<(at: number) => number>): number {
  let emptyFor = 0
  for (const delayOf of proxies) {
    const changes = [
      ...ready.map(at => ({ at: at + delayOf(at), pods: 1 })),
      ...deleted.map(at => ({ at: at + delayOf(at), pods: -1 }))
    ].sort((a, b) => a.at - b.at)
    let known = pods
    for (const [index, change] of changes.entries()) {
      known += change.pods
      if (known === 0) emptyFor += (changes[index + 1]?.at ?? change.at) - change.at
    }
  }
  return Math.round(emptyFor * pods * rate / proxies.length / 1_000)
}

function mostAtOnce (stays: ReadonlyArray<[from: number, to: number]>): number {
  const changes = stays.flatMap(([from, to]) => [{ at: from, pods: 1 }, { at: to, pods: -1 }])
  changes.sort((a, b) => a.at - b.at || a.pods - b.pods)
  let pods = 0
  return changes.reduce((most, change) => Math.max(most, pods += change.pods), 0)
}
