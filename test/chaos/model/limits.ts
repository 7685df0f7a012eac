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
export const LOG_FLUSH = 500
export const FIRST_REQUEST = 500
export const CHECK_INTERVAL = 1_000
export const SPREAD_INTERVAL = 50

/** How long the drain waits for the answers of WebSockets that preClose hooks have closed: a part of drainTimeout, at most 1 s. */
export const WEBSOCKET_CLOSE = { part: 1 / 4, most: 1_000 }

/** The part of shutdownTimeout that callbacks do not get. */
export const EXIT_MARGIN = 0.05

/**
 * The time that is left for closing and for callbacks at a time of the run. At most: the plugin counts from shortly before its first
 * event, and `untilFirstEvent` says how much that may be.
 */
function timeLeft (facts: Facts, i: number, t: number): number {
  return (facts.start(i)?.t ?? 0) + (facts.scenario.instances[i]?.shutdownTimeout ?? 0) * (1 - EXIT_MARGIN) - t
}

function untilFirstEvent (facts: Facts, i: number): number {
  const { t = 0 } = facts.start(i) ?? {}
  return EARLY + facts.lag(t - 200, t)
}

/** The time for closing connections and for onClose hooks: half of what is left, if there are callbacks. */
function timeToClose (facts: Facts, i: number): number {
  const left = timeLeft(facts, i, facts.phase(i, 'closing')?.t ?? 0)
  return facts.scenario.instances[i]?.callbacks.some(({ when }) => when === 'end') === true ? left / 2 : left
}

/**
 * Whether an instance may have had no time to send what it has answered before it closes its connections: a quarter of the time for
 * closing, and this limits how late it may be.
 */
export function isOutOfTime (facts: Facts, i: number): boolean {
  const [closing, closed] = [facts.phase(i, 'closing')?.t ?? 0, facts.phase(i, 'closed')?.t ?? Infinity]
  return facts.lag(closing, closed) > (timeToClose(facts, i) - untilFirstEvent(facts, i)) / 8
}

/** Whether closing has taken about as long as it may, so that callbacks run meanwhile. */
export function isCloseLate (facts: Facts, i: number): boolean {
  const firstCallback = facts.steps.find(step => step.i === i && step.of === 'callback' && isCleanup(step))
  const end = firstCallback?.begun.t ?? facts.phase(i, 'closed')?.t ?? 0
  const took = end - (facts.phase(i, 'closing')?.t ?? Infinity)
  const isLogged = facts.seen.log.some(({ name, err }) =>
    name === `instance ${i}` && String((err as Error | undefined)?.message).startsWith('Closing did not end within'))
  return isLogged && took > timeToClose(facts, i) - untilFirstEvent(facts, i)
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
  // All of those for the start are given their time before the first of them is called.
  const called = when === 'start' ? start : begun.t
  const limit = Math.min(timeout, when === 'start' ? (facts.phase(i, 'closing')?.t ?? Infinity) - called : share())
  const took = ended.t - called
  if (took + facts.lag(called - 50, ended.t) < limit - untilFirstEvent(facts, i)) return false
  if (took > limit + LATE + facts.lag(called, ended.t)) return true
  return facts.report(i)?.report.callbacks.some(callback => callback.name === name && callback.error !== undefined) === true

  function share (): number {
    const later = instance?.callbacks.filter((callback, other) => other > index && callback.when === 'end').length ?? 0
    const left = Math.max(0, timeLeft(facts, i, called))
    const fair = left / (later + 1)
    return timeout === Infinity ? fair : left - later * fair / 2
  }
}

export function tell (request: RequestFacts): string {
  const { url, i, arrived, handler, handled, sent, cut, answer } = request
  const at = (event: { t: number } | undefined): string => event === undefined ? '-' : event.t.toFixed(1)
  const read = answer === undefined
    ? 'no answer'
    : `${answer.outcome} ${answer.status ?? ''} ${codeOf(answer) ?? ''} ${answer.error ?? ''} sent ${answer.sentAt.toFixed(1)} ended ${answer.endedAt.toFixed(1)}`
  return `${url} of instance ${i}: arrived ${at(arrived)}, handler ${at(handler)} to ${at(handled)}, sent ${at(sent)}, cut ${at(cut)}; client: ${read}`
}
