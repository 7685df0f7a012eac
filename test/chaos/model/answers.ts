// What clients read.

import type { Facts, RequestFacts } from '../facts.ts'
import { codeOf } from '../answer.ts'
import { answerOf } from '../scenario.ts'
import { DRAIN_TIMEOUT, EXIT, FASTIFYS_503, SHUTTING_DOWN, isOutOfTime, tell } from './limits.ts'

/** An accepted request is answered in full, unless the log and the report name it as cut. */
export function * answersWhatItAccepts (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.accepted(i)) {
      const { answer, arrived, cut, handler, url, work } = request
      if (answer === undefined || answer.outcome === 'left' || cut !== undefined) continue
      if (arrived !== undefined && facts.isAfterForced(arrived)) continue
      const status = work.answers === 'throw' ? 500 : 200
      const isRight = status === 500 ? codeOf(answer) === undefined : answer.body === answerOf(url, work)
      if (isRefused(request)) continue
      // What is pipelined behind a response that has said Connection: close is not handled.
      if (answer.outcome === 'none' && handler === undefined && facts.isBehindLast(request)) continue
      if (answer.outcome === 'part' && answer.error === undefined && (answer.body?.length ?? 0) + (answer.unread ?? 0) === answerOf(url, work).length) continue
      if (answer.outcome !== 'whole' || answer.status !== status || !isRight) yield tell(request)
    }
  }
}

/** Its client may send it again, because GOAWAY has not named its stream, and it was not handled. */
function isRefused ({ answer, handler }: RequestFacts): boolean {
  return answer?.outcome === 'none' && answer.error === 'REFUSED_STREAM' && handler === undefined
}

/** A request that was cut gets a 503 that says so if its response had not begun, else no whole answer. */
export function * answersWhatItCuts (facts: Facts): Iterable<string> {
  for (const request of facts.requests.values()) {
    const { answer, cut, handled, url, work } = request
    if (cut === undefined || answer === undefined || answer.outcome === 'left' || answer.outcome === 'part') continue
    // It may have been answered, and its handler go on; or the process exits.
    if (cut.code === EXIT || (answer.outcome === 'whole' && (work.answers === 'throw' ? answer.status === 500 : answer.body === answerOf(url, work)))) continue
    // Its connection was closed because of another request of the pipeline, or it was being received.
    if (answer.outcome === 'none' && (answer.before > 0 || handled !== undefined || facts.scenario.clients[answer.client]?.kind === 'burst')) continue
    if (answer.outcome !== 'whole' || answer.status !== 503 || codeOf(answer) !== DRAIN_TIMEOUT) yield tell(request)
  }
}

/** Nothing new is served once the gate is shut, and what arrives gets a 503; in a pipeline, the first request does. */
export function * servesNothingLate (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.late(i)) {
      const { answer, handler } = request
      if (handler !== undefined) yield `served: ${tell(request)}`
      if (answer === undefined || answer.outcome === 'left' || facts.forced !== undefined || isRefused(request)) continue
      if (answer.outcome === 'none' && facts.isBehindLast(request)) continue
      if (answer.outcome !== 'whole' && isOutOfTime(facts, i)) continue
      // A TLS handshake may end while WebSockets are still closing, after the plugin has closed the connections that it knows.
      if (answer.body === FASTIFYS_503 && /^https$|^h2$/.test(facts.scenario.protocol) && facts.seen.webSockets.length > 0) continue
      if (answer.outcome !== 'whole' || answer.status !== 503 || codeOf(answer) !== SHUTTING_DOWN) yield `no 503: ${tell(request)}`
    }
  }
}

/** Nothing is rejected before the gate is shut. */
export function * rejectsNothingEarly (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.accepted(i)) {
      if (request.answer !== undefined && codeOf(request.answer) === SHUTTING_DOWN) yield tell(request)
    }
  }
}

/** Readiness follows the phase, and the probes are never rejected by the gate. HTTP/2 streams are refused after GOAWAY. */
export function * probesTruly (facts: Facts): Iterable<string> {
  for (const answer of facts.seen.answers) {
    if (answer.url !== '/ready' && answer.url !== '/health') continue
    const { to = 0 } = facts.scenario.clients[answer.client] ?? {}
    const start = facts.start(to)?.t ?? Infinity
    const what = `${answer.url} of instance ${to} at ${answer.sentAt.toFixed(1)} to ${answer.endedAt.toFixed(1)}: ${answer.outcome} ${answer.status ?? ''}, the shutdown starts at ${start.toFixed(1)}`
    if (answer.outcome === 'whole') {
      if (answer.endedAt < start && answer.status !== 200) yield what
      if (answer.sentAt > start && answer.status !== 503) yield what
      // Those that a hook before the plugin still holds when connections are closed, or the process exits, are rejected.
      const second = facts.forced?.startsWith('Second signal') === true ? facts.seen.signals[1]?.t : undefined
      const end = Math.min(facts.phase(to, 'closing')?.t ?? Infinity, second ?? Infinity)
      const isHeld = (facts.scenario.instances[to]?.ahead ?? 0) > 0 && answer.endedAt > end
      if (codeOf(answer) !== undefined && !isHeld) yield `rejected: ${what}`
    } else if (answer.outcome !== 'left') {
      const isHttp2 = facts.scenario.clients[answer.client]?.http === 2
      const end = (isHttp2 ? facts.goodbye(to) : facts.phase(to, 'closing'))?.t ?? Infinity
      if (answer.endedAt < Math.min(end, facts.exit?.t ?? Infinity)) yield what
    }
  }
}
