// What the invariants share: the waits and limits of the plugin, and whether something has reached them.

import type { Facts, RequestFacts, StepFacts } from '../facts.ts'
import { codeOf } from '../answer.ts'

export const SHUTTING_DOWN = 'FST_ERR_GRACEFUL_SHUTTING_DOWN'
export const DRAIN_TIMEOUT = 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT'
export const FASTIFYS_503 = '{"error":"Service Unavailable","message":"Service Unavailable","statusCode":503}'
export const EXIT = 'FST_ERR_GRACEFUL_EXIT'

/** Timers count whole milliseconds, and may fire a part of one early. */
export const EARLY = 2

/** How much later than a deadline something may be on an idle machine. */
export const LATE = 60

/** Waits of the plugin, see lib/times.ts and docs/lifecycle.md#phases. */
export const QUIET = 200
export const DRAINING_KEEP_ALIVE = 100
export const LOG_FLUSH = 200

/** The part of shutdownTimeout that callbacks do not get. */
export const EXIT_MARGIN = 0.05

/** The time for closing connections and for onClose hooks: half of what is left, if there are callbacks. */
export function timeToClose (facts: Facts, i: number): number {
  const instance = facts.scenario.instances[i]
  if (instance === undefined) return 0
  const left = (facts.start(i)?.t ?? 0) + instance.shutdownTimeout * (1 - EXIT_MARGIN) - (facts.phase(i, 'closing')?.t ?? 0)
  return instance.callbacks.some(({ when }) => when === 'end') ? left / 2 : left
}

/**
 * Whether an instance may have had no time to send what it has answered before it closes its connections: a quarter of the time for
 * closing, and this limits how late it may be.
 */
export function isOutOfTime (facts: Facts, i: number): boolean {
  const [closing, closed] = [facts.phase(i, 'closing')?.t ?? 0, facts.phase(i, 'closed')?.t ?? Infinity]
  return facts.lag(closing, closed) > timeToClose(facts, i) / 8
}

/** Whether closing has taken about as long as it may, so that callbacks run meanwhile. */
export function isCloseLate (facts: Facts, i: number): boolean {
  const closing = facts.phase(i, 'closing')?.t ?? Infinity
  const end = facts.steps.find(step => step.i === i && step.of === 'callback' && isCleanup(step))?.begun.t ?? facts.phase(i, 'closed')?.t ?? 0
  return end - closing > timeToClose(facts, i) - EARLY && facts.report(i)?.report.errors.some(message => message.startsWith('Closing did not end within')) === true
}

export function isCleanup ({ of, name }: StepFacts): boolean {
  return of === 'onClose' || (of === 'callback' && name.startsWith('end'))
}

/**
 * Whether a callback has taken longer than it may, see docs/background-work.md#how-much-time-a-callback-has. If it has taken about as
 * long, the report decides.
 */
export function overruns (facts: Facts, { i, of, name, begun, ended }: StepFacts): boolean {
  const { instances } = facts.scenario
  const instance = instances[i]
  if (of !== 'callback' || instance === undefined || ended === undefined) return false
  const index = Number(/\d+/.exec(name)?.[0])
  const { when, timeout = Infinity } = instance.callbacks[index] ?? {}
  const start = facts.start(i)?.t ?? 0
  const later = instance.callbacks.filter((callback, other) => other > index && callback.when === 'end').length
  const left = start + instance.shutdownTimeout * (1 - EXIT_MARGIN) - begun.t
  const drained = facts.phase(i, 'closing')?.t ?? Infinity
  const limit = when === 'start' ? Math.min(timeout, drained - begun.t) : timeout === Infinity ? left / (later + 1) : Math.min(timeout, left - later * left / (later + 1) / 2)
  // All of those for the start are given their time before the first of them is called.
  const called = when === 'start' ? start : begun.t
  const took = ended.t - called
  if (took + facts.lag(called - 50, ended.t) < limit - EARLY) return false
  if (took > limit + LATE + facts.lag(called, ended.t)) return true
  return facts.report(i)?.report.callbacks.some(callback => callback.name === name && callback.error !== undefined) === true
}

export function tell (request: RequestFacts): string {
  const { url, i, arrived, handler, handled, sent, cut, answer } = request
  const at = (event: { t: number } | undefined): string => event === undefined ? '-' : event.t.toFixed(1)
  const read = answer === undefined
    ? 'no answer'
    : `${answer.outcome} ${answer.status ?? ''} ${codeOf(answer) ?? ''} ${answer.error ?? ''} sent ${answer.sentAt.toFixed(1)} ended ${answer.endedAt.toFixed(1)}`
  return `${url} of instance ${i}: arrived ${at(arrived)}, handler ${at(handler)} to ${at(handled)}, sent ${at(sent)}, cut ${at(cut)}; client: ${read}`
}
