// Kubernetes' pod termination, by numbers: which of them lose nothing?

import type { Rollout } from './rollout.ts'
import { resolveOptions } from '../../lib/options.ts'
import { lateAndUneven, simulate } from './rollout.ts'

const SEED = 1
/** Seconds that endpoint removal may take, at most, to reach the last proxy. */
export const PROPAGATION = [0, 2, 4, 8]
const DELAYS = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
const PODS = [3, 10, 100, 1_000]

/** What the README recommends. */
export const RECOMMENDED = {
  options: { shutdownDelay: 10_000, drainTimeout: 15_000, shutdownTimeout: 30_000 },
  preStop: 0,
  grace: 35_000
}

export const MODEL = {
  pods: 10, maxSurge: 1, startUp: 3_000, probePeriod: 2_000, proxies: 20, rate: 50, median: 50, longest: 10_000
}

/** A rolling update with these settings, all else as in the tables. */
export function rollout (most: number, settings: Partial<typeof RECOMMENDED> = {}, model: Partial<typeof MODEL> = {}): Rollout {
  const { options, preStop, grace } = { ...RECOMMENDED, ...settings }
  return { ...MODEL, ...model, propagation: lateAndUneven(most), settings: { options: resolveOptions(options), preStop, grace } }
}

const withDelay = (shutdownDelay: number) => ({ options: { ...RECOMMENDED.options, shutdownDelay } })

function table (head: string[], rows: Array<Array<string | number>>): string {
  return [head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

/** Lost requests of a rollout of ten pods, by delay and by how long endpoint removal takes. */
export function lossesByDelay (): string {
  const lost = (delay: number) => PROPAGATION.map(most => simulate(rollout(most * 1_000, withDelay(delay * 1_000)), SEED).lost)
  const rows = DELAYS.map(delay => [[`${delay} s`], lost(delay)].flat())
  return table(['shutdownDelay', ...PROPAGATION.map(most => `removal within ${most} s`)], rows)
}

/** The same with the recommended numbers and with no delay, by the number of pods and what is replaced at a time. */
export function lossesByPods (): string {
  const rows = PODS.map(pods => {
    const maxSurge = Math.max(1, Math.round(pods / 4))
    const [without, recommended] = [withDelay(0), {}].map(settings => simulate(rollout(8_000, settings, { pods, maxSurge }), SEED))
    return [pods, maxSurge, without?.lost ?? '', recommended?.lost ?? '', `${Math.round((recommended?.time ?? 0) / 1_000)} s`]
  })
  return table(['pods', 'maxSurge', 'lost without a delay', 'lost with the recommended numbers', 'rollout takes'], rows)
}

/** The smallest delay, in whole seconds, that loses nothing in any of so many runs. */
export function leastDelay (most: number, runs = 20): number {
  for (let delay = 0; ; delay += 1_000) {
    const lost = Array.from({ length: runs }, (_, seed) => simulate(rollout(most, withDelay(delay)), seed).lost)
    if (lost.every(count => count === 0)) return delay
  }
}
