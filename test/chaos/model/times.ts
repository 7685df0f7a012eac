// When it ends.

import type { Facts } from '../facts.ts'
import { EARLY, EXIT_MARGIN, FIRST_REQUEST, LATE, LOG_FLUSH, QUIET, WEBSOCKET_CLOSE } from './limits.ts'

/** The process ends within shutdownTimeout, each drain within drainTimeout, a callback within its timeout. */
export function * endsInTime (facts: Facts): Iterable<string> {
  const { exit, end } = facts
  const starts = facts.instances.map(({ i }) => facts.start(i)?.t ?? Infinity)
  const begun = Math.min(...starts)
  const timeouts = facts.scenario.instances.map(({ shutdownTimeout }) => shutdownTimeout)
  // One of them may have been closed before.
  const limit = Math.max(...starts) + Math.max(...timeouts) + LATE + facts.lag(begun, Infinity)
  if (exit === undefined || end.signal !== null) yield `the process ended with ${end.signal ?? `exit code ${end.code}`}`
  else if (exit.t > limit) yield `exit at ${exit.t.toFixed(1)}, after ${limit.toFixed(1)}`
  const margin = EXIT_MARGIN * Math.min(...timeouts)
  if (facts.forced?.startsWith('The process has not ended') === true && facts.all('report').length < facts.instances.length && facts.lag(begun, Infinity) < margin / 2) yield facts.forced
  for (const { i, instance } of facts.instances) {
    const [draining, closing] = [facts.phase(i, 'draining'), facts.phase(i, 'closing') ?? exit]
    if (draining === undefined || closing === undefined) continue
    const drain = closing.t - draining.t
    const [start, closed] = [facts.start(i)?.t ?? 0, facts.phase(i, 'closed')?.t ?? 0]
    if (closed > start + instance.shutdownTimeout + LATE + facts.lag(start, closed)) yield `instance ${i} shuts down for ${(closed - start).toFixed(1)}`
    if (drain > instance.drainTimeout + QUIET + LATE + facts.lag(draining.t, closing.t)) yield `instance ${i} drains for ${drain.toFixed(1)}`
    for (const [index, { when, timeout = Infinity }] of instance.callbacks.entries()) {
      const step = facts.steps.find(({ i: of, name }) => of === i && name === `${when} ${index}`)
      // The next one begins, or the process ends.
      const next = facts.steps.find(({ i: of, name }) => of === i && name.startsWith('end') && Number(/\d+/.exec(name)?.[0]) > index)?.begun ?? exit
      if (when === 'start' || step === undefined || next === undefined) continue
      const took = (facts.phase(i, 'closed') === undefined ? next.t : Math.min(next.t, facts.phase(i, 'closed')?.t ?? 0)) - step.begun.t
      // Work that was tracked after the drain is waited for after the last callback.
      const late = next === exit && instance.tasks.length > 0 ? instance.drainTimeout : 0
      if (took > Math.max(timeout, late) + LOG_FLUSH + LATE + facts.lag(step.begun.t, next.t)) yield `instance ${i} waits ${took.toFixed(1)} for ${step.name}`
    }
  }
}

/** The delay is as long as asked for, and not over before that, except on SIGINT. */
export function * delaysAsAsked (facts: Facts): Iterable<string> {
  for (const { i, instance: { shutdownDelay, ahead } } of facts.instances) {
    const [delaying, draining] = [facts.phase(i, 'delaying'), facts.phase(i, 'draining')]
    const { max, quiet } = typeof shutdownDelay === 'number' ? { max: shutdownDelay, quiet: shutdownDelay } : shutdownDelay
    const isSkipped = facts.seen.signals.some(({ kind }) => kind === 'SIGINT')
    if (max > 0 && delaying === undefined && draining !== undefined && !isSkipped) yield `instance ${i} has no delay`
    if (delaying === undefined || draining === undefined) continue
    const took = draining.t - delaying.t
    if (took > max + LATE + facts.lag(delaying.t, draining.t)) yield `instance ${i} delays for ${took.toFixed(1)}`
    if (isSkipped) continue
    // What no answer can follow is not admitted.
    const admitted = facts.accepted(i).filter(request => request.handler !== undefined || !facts.isBehindLast(request))
    const arrivals = admitted.map(({ arrived }) => arrived?.t ?? 0).filter(t => t > delaying.t && t < draining.t)
    // A hook before the plugin may hold a request.
    const last = ahead === undefined || ahead === 0 ? Math.max(delaying.t, ...arrivals) : delaying.t
    const least = Math.min(delaying.t + max, last + quiet)
    if (draining.t < least - EARLY) yield `instance ${i} delays until ${draining.t.toFixed(1)}, not ${least.toFixed(1)}`
  }
}

/** A second signal exits at once, a copy of the first does not. */
export function * knowsCopies (facts: Facts): Iterable<string> {
  const [first, second] = facts.seen.signals
  const isSecond = facts.forced?.startsWith('Second signal') === true
  if (isSecond && second === undefined) yield `${facts.forced}, but only ${first?.kind ?? 'no signal'} was sent`
  if (first === undefined || second === undefined) return
  const other = facts.seen.signals.find(({ kind, t }) => kind !== first.kind || t - first.t > 200 + LATE + facts.lag(first.t, t))
  const last = (other?.t ?? Infinity) + LOG_FLUSH + LATE + facts.lag(other?.t ?? 0, Infinity)
  if (!isSecond && (facts.exit?.t ?? 0) > last) yield `${other?.kind} ${((other?.t ?? 0) - first.t).toFixed(1)} ms after ${first.kind} is ignored`
  const isCopy = facts.seen.signals.every(({ kind, t }) => kind === first.kind && t - first.t < 200 - LATE - facts.lag(first.t, t))
  if (isCopy && isSecond) yield `${facts.forced}: ${second.kind} ${(second.t - first.t).toFixed(1)} ms after the first`
}

/** A drain that cuts nothing is over soon after the last thing that it waits for. */
export function * drainsNoLongerThanNeeded (facts: Facts): Iterable<string> {
  for (const { i, instance: { drainTimeout } } of facts.instances) {
    const [draining, closing] = [facts.phase(i, 'draining'), facts.phase(i, 'closing')]
    if (draining === undefined || closing === undefined || facts.all('cut', i).length > 0 || facts.forgotten.size > 0) continue
    const requests = facts.accepted(i).flatMap(({ answer, handled, hooked, sent }) =>
      [handled, sent, hooked.map(({ t }) => ({ t })), answer?.outcome === 'left' ? { t: answer.endedAt } : undefined].flat())
    // One that hangs is waited for until the end of the drain.
    const steps = facts.steps.filter(({ i: of, begun }) => of === i && begun.n < closing.n).map(({ ended }) => ended?.t ?? closing.t)
    if (steps.includes(closing.t)) continue
    const ends = [...requests.map(event => event?.t ?? 0), ...steps].filter(t => t < closing.t)
    const isSpread = facts.seen.log.some(({ name, msg }) => name === `instance ${i}` && msg.startsWith('Ending long-lived connections'))
    const spread = isSpread ? (facts.start(i)?.t ?? 0) + (facts.scenario.instances[i]?.spread ?? 0) : 0
    // A connection without a request has this long for its first one, if the listener has been closed.
    const first = facts.isInherited(i) ? draining.t + FIRST_REQUEST : 0
    // Once the preClose hooks have told WebSockets to close, their clients have this long to answer.
    const answered = Math.max(draining.t, spread, ...steps) + Math.min(WEBSOCKET_CLOSE.part * drainTimeout, WEBSOCKET_CLOSE.most)
    const webSockets = facts.seen.webSockets.filter(({ client }) => facts.scenario.clients[client]?.to === i)
    const closed = Math.min(answered, Math.max(0, ...webSockets.map(({ endedAt }) => endedAt)))
    const last = Math.max(draining.t, spread, first, closed, ...ends)
    if (closing.t > last + QUIET + LATE + facts.lag(last, closing.t)) {
      yield `instance ${i} drains until ${closing.t.toFixed(1)}, but nothing runs after ${last.toFixed(1)}`
    }
  }
}
