// The tables of the simulation: which settings lose no request?

import type { AdaptiveDelay } from '../../types/index.ts'
import type { Result, Rollout } from './rollout.ts'
import { QUIET } from '../../lib/times.ts'
import { resolveOptions } from '../../lib/options.ts'
import { lateAndUneven, ON_THE_WAY, outcomeOf, simulate, trafficOf } from './rollout.ts'

const SEED = 1
/** The number of pods for rare events. */
export const MANY = 100
/** How a bound is found by simulation: the seeds of the runs, the precision and the maximum, in milliseconds. */
const SEEDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
const EXACT = 50
const PLENTY = 60_000

export const MODEL = {
  pods: 10,
  maxSurge: 1,
  maxUnavailable: 0,
  startUp: 3_000,
  probePeriod: 2_000,
  proxies: 20,
  rate: 50,
  connections: 10,
  pause: 1_000,
  median: 50,
  longest: 10_000,
  cleanup: 3_000,
  /** How many milliseconds endpoint removal takes at most to reach the last proxy. */
  removal: 8_000
}

/** The settings for a service, from its longest request, the time of endpoint removal and of cleanup. All in milliseconds. */
export function recommend ({ longest, removal, cleanup }: Pick<typeof MODEL, 'longest' | 'removal' | 'cleanup'>) {
  const shutdownDelay = removal + 2_000
  const drainTimeout = longest + 5_000
  // Closing takes up to a second, and the steps end a little before shutdownTimeout.
  const shutdownTimeout = shutdownDelay + drainTimeout + cleanup + 2_000
  // A preStop hook adds its time to the grace period; the delay may then be shorter.
  return { options: { shutdownDelay, drainTimeout, shutdownTimeout }, preStop: 0, grace: shutdownTimeout + 5_000 }
}

export const RECOMMENDED = recommend(MODEL)

interface Change extends Partial<typeof MODEL> {
  shutdownDelay?: number | AdaptiveDelay
  drainTimeout?: number
  shutdownTimeout?: number
  preStop?: number
  grace?: number
}

/** The model with the recommended settings, except for the given ones. */
export function rollout ({ shutdownDelay, drainTimeout, shutdownTimeout, preStop, grace, ...model }: Change = {}): Rollout {
  const { removal, ...rest } = { ...MODEL, ...model }
  const recommended = RECOMMENDED.options
  const delay = shutdownDelay ?? recommended.shutdownDelay
  const drain = drainTimeout ?? recommended.drainTimeout
  // The plugin requires that both fit.
  const fitting = (typeof delay === 'number' ? delay : delay.max) + drain + 5_000
  const options = {
    shutdownDelay: delay, drainTimeout: drain, shutdownTimeout: shutdownTimeout ?? Math.max(recommended.shutdownTimeout, fitting)
  }
  const settings = { options: resolveOptions(options), preStop: preStop ?? RECOMMENDED.preStop, grace: grace ?? RECOMMENDED.grace }
  return { ...rest, propagation: lateAndUneven(removal), settings }
}

const run = (change: Change) => simulate(rollout(change), SEED)
const seconds = (ms: number) => `${ms / 1_000} s`

function table (head: string[], rows: Array<Array<string | number>>): string {
  return [head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const REMOVALS = [0, 2_000, 4_000, 8_000]

/** Lost requests by shutdownDelay. */
export function lossesByDelay (): string {
  const rows = [0, 1_000, 2_000, 3_000, 4_000, 6_000, 8_000, 9_000, 10_000].map(shutdownDelay =>
    [[seconds(shutdownDelay)], REMOVALS.map(removal => run({ shutdownDelay, removal }).lost)].flat())
  return table(['shutdownDelay', ...REMOVALS.map(removal => `removal within ${seconds(removal)}`)], rows)
}

const QUIETS = [500, 1_000, 2_000, 4_000]

/** An adaptive delay: lost requests, and the median delay, by `quiet`, by the rate of requests and by how long the removal takes. */
export function lossesByQuiet (): string {
  const cells = (removal: number, rate: number) => [Infinity, ...QUIETS].map(quiet => {
    const max = removal + 2_000
    const shutdownDelay = { max, quiet: Math.min(quiet, max) }
    const { lost, delay } = run({ shutdownDelay, removal, rate, connections: Math.ceil(rate / 5), pods: MANY })
    return `${lost} (${(delay / 1_000).toFixed(1)} s)`
  })
  const rows = [2_000, 8_000].flatMap(removal => [50, 10, 2, 0.5].map(rate => [[seconds(removal), rate], cells(removal, rate)].flat()))
  return table(['removal within', 'requests a second to each pod', 'fixed delay', ...QUIETS.map(quiet => `quiet ${seconds(quiet)}`)], rows)
}

/**
 * How long a rollout takes, with a fixed and with an adaptive delay that both lose nothing. The removal reaches all proxies within 2 s.
 * A Deployment does not wait for pods that terminate; a StatefulSet does, as what restarts processes one after another.
 */
export function durationByQuiet (): string {
  const rows = [10, 100, 1_000].flatMap(pods => {
    const fixed = run({ pods, shutdownDelay: 10_000, removal: 2_000 })
    const adaptive = run({ pods, shutdownDelay: { max: 10_000, quiet: 2_000 }, removal: 2_000 })
    const row = (what: string, time: 'time' | 'timeInPlace') =>
      [pods, what, ...[fixed, adaptive].map(result => `${Math.round(result[time] / 1_000)} s`), fixed.lost, adaptive.lost]
    return [row('Deployment', 'time'), row('StatefulSet', 'timeInPlace')]
  })
  return table(['pods', 'kind', 'rollout, fixed 10 s', 'rollout, quiet 2 s, max 10 s', 'lost, fixed', 'lost, quiet'], rows)
}

/** Lost requests by drainTimeout. */
export function lossesByDrain (): string {
  const longest = [2_000, 5_000, 10_000, 15_000]
  // The proxies learn of the removal at the last moment, so that requests have only just begun when the drain starts.
  const others = { shutdownDelay: MODEL.removal + ON_THE_WAY, grace: PLENTY, pods: MANY }
  const rows = [1_000, 2_000, 5_000, 10_000, 15_000].map(drainTimeout =>
    [[seconds(drainTimeout)], longest.map(ms => run({ ...others, drainTimeout, longest: ms }).lost)].flat())
  return table(['drainTimeout', ...longest.map(ms => `longest request ${seconds(ms)}`)], rows)
}

/** Requests and pods that SIGKILL ends, by the grace period. */
export function lossesByGrace (): string {
  const rows = [8_000, 10_000, 15_000, 20_000, 25_000, 35_000].map(grace => {
    const { outcomes: { killed }, unclean } = run({ grace, pods: MANY })
    return [seconds(grace), killed, unclean]
  })
  return table(['terminationGracePeriodSeconds', 'requests ended by SIGKILL', `of ${MANY} pods, killed before their cleanup was done`], rows)
}

/** A preStop hook gives endpoint removal its time, but does not close open connections; the delay does. */
export function lossesByPreStop (): string {
  const rows = [0, 500, 1_000, 2_000].map(shutdownDelay => {
    const { lost } = run({ preStop: 10_000, shutdownDelay, grace: RECOMMENDED.grace + 10_000 })
    return [seconds(shutdownDelay), lost]
  })
  return table(['preStop 10 s, then shutdownDelay', 'lost'], rows)
}

/** Lost requests by the number of pods and the limits of a rolling update. */
export function lossesByPods (): string {
  const rows = [3, 10, 100, 1_000].flatMap(pods => {
    // One by one, Kubernetes' default of 25 % each, and all at once, which leaves no pod until new ones are ready.
    const quarter = { maxSurge: Math.ceil(pods / 4), maxUnavailable: Math.floor(pods / 4) }
    return [{ maxSurge: 1, maxUnavailable: 0 }, quarter, { maxSurge: 0, maxUnavailable: pods }].map(surge => {
      const [without, recommended] = [run({ pods, ...surge, shutdownDelay: 0 }), run({ pods, ...surge })]
      const { lost, leaving, time } = recommended
      return [pods, surge.maxSurge, surge.maxUnavailable, without.lost, lost, leaving, `${Math.round(time / 1_000)} s`]
    })
  })
  return table(['pods', 'maxSurge', 'maxUnavailable', 'lost without a delay', 'lost with the recommended settings', 'terminating at once', 'duration'], rows)
}

/** The smallest values that lose nothing in the model's worst case, for a rollout with these settings. */
export function bounds (change: Change = {}) {
  const { settings: { options: { shutdownDelay }, preStop }, longest, cleanup, pause } = rollout(change)
  // When the last request arrives: the last proxy has learned of the removal, and the last connection has been closed.
  const last = Math.max((change.removal ?? MODEL.removal) + ON_THE_WAY, preStop + pause)
  const draining = preStop + shutdownDelay.max
  const delay = last - preStop
  const drain = Math.max(0, Math.min(last, draining) + longest - draining)
  return { delay, drain, grace: draining + drain + QUIET.most + cleanup }
}

/** The same by simulation: the smallest values that lose nothing in any of the runs. */
export function sampled (change: Change = {}) {
  const runs = SEEDS.map(seed => trafficOf(rollout(change), seed))
  const leastOf = (setting: (ms: number) => Change, isBad: (result: Result) => boolean) => least(ms => {
    const model = rollout({ grace: PLENTY, ...change, ...setting(ms) })
    return !runs.some(traffic => isBad(outcomeOf(model, traffic)))
  })
  return {
    delay: leastOf(ms => ({ shutdownDelay: ms }), ({ outcomes }) => outcomes.refused + outcomes['connection refused'] > 0),
    drain: leastOf(ms => ({ drainTimeout: ms }), ({ outcomes }) => outcomes.cut > 0),
    grace: leastOf(ms => ({ grace: ms }), ({ outcomes, unclean }) => outcomes.killed + unclean > 0)
  }
}

/** The smallest number that is enough, if every larger one is enough as well. */
function least (isEnough: (ms: number) => boolean): number {
  let [tooFew, enough] = [-EXACT, PLENTY]
  while (enough - tooFew > EXACT) {
    const middle = Math.round((tooFew + enough) / 2)
    if (isEnough(middle)) enough = middle
    else tooFew = middle
  }
  return enough
}

export function leastOfEach (): string {
  const rows = REMOVALS.map(removal => {
    const change = { removal, pods: MANY }
    const [must, found] = [bounds(change), sampled(change)]
    return [[seconds(removal)], (['delay', 'drain', 'grace'] as const).map(name => `${must[name]} (${found[name]})`)].flat()
  })
  return table(['removal within', 'shutdownDelay', 'drainTimeout', 'grace period'], rows)
}
