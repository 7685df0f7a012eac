// What is cut, and what runs at the end of the drain.

import type { Facts, RequestFacts } from '../facts.ts'
import { codeOf } from '../answer.ts'
import { CHECK_INTERVAL, DRAIN_TIMEOUT, EARLY, EXIT, isCleanup, tell } from './limits.ts'

/** Requests and work are cut at drainTimeout, or by a forced exit; not earlier, and not if they are done. */
export function * cutsNothingEarly (facts: Facts): Iterable<string> {
  for (const cut of facts.all('cut')) {
    const { i, t, n, code, entry } = cut
    const limit = (facts.phase(i, 'draining')?.t ?? Infinity) + (facts.scenario.instances[i]?.drainTimeout ?? 0) - EARLY
    const what = `${entry.kind === 'task' ? entry.name : entry.url ?? entry.route} of instance ${i}, cut at ${t.toFixed(1)} with ${code}`
    if (code === EXIT ? facts.forced === undefined : code !== DRAIN_TIMEOUT || t < limit) yield `${what}, before ${limit.toFixed(1)}`
    if (entry.kind === 'task') {
      const step = facts.steps.find(({ name, i: of }) => of === i && name === entry.name)
      if (step === undefined || (step.ended !== undefined && step.ended.n < n)) yield `${what}, but it was done`
      continue
    }
    const request = facts.requests.get(entry.url ?? '')
    // While a hook before the plugin holds a request, its route is not known.
    const isProbe = (entry.url === '/ready' || entry.url === '/health') && (facts.scenario.instances[i]?.ahead ?? 0) > 0
    if (isProbe) continue
    if (request === undefined) yield `${what}: no such request`
    else if (!facts.runs(request, n) && request.handled !== undefined && (request.sent?.n ?? Infinity) < n && request.answer?.outcome === 'whole') {
      if (codeOf(request.answer) !== DRAIN_TIMEOUT) yield `${what}, but it was done: ${tell(request)}`
    }
  }
}

/** What still runs when connections have been closed after the drain, or at a forced exit, is named as cut. */
export function * namesWhatItCuts (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    // A forced exit writes the log after it has named what it cuts.
    const cleanup = facts.steps.find(step => step.i === i && isCleanup(step))?.begun
    const end = cleanup ?? facts.phase(i, 'closed') ?? facts.all('cut').find(({ code }) => code === EXIT) ?? facts.exit
    if (end === undefined) continue
    for (const request of facts.accepted(i)) {
      if (request.arrived !== undefined && facts.isAfterForced(request.arrived)) continue
      if (facts.runs(request, end.n) && request.cut === undefined && !facts.forgotten.has(request.url)) yield `not named: ${tell(request)}`
    }
    for (const { i: of, of: kind, name, begun, ended } of facts.steps) {
      if (of !== i || kind !== 'task' || facts.isAfterForced(begun) || begun.n > (facts.phase(i, 'closing') ?? end).n || (ended !== undefined && ended.n < end.n)) continue
      if (!facts.all('cut', i).some(({ entry }) => entry.kind === 'task' && entry.name === name)) yield `not named: ${name} of instance ${i}`
    }
  }
}

/** No callback and no onClose hook runs while a handler, a hook of a request or a task runs, unless that was cut. */
export function * cleansUpAfterHandlers (facts: Facts): Iterable<string> {
  for (const { i, name, begun } of facts.steps.filter(isCleanup)) {
    for (const request of facts.requests.values()) {
      if (request.i !== i || !facts.runs(request, begun.n) || facts.forgotten.has(request.url)) continue
      if (!(request.cut !== undefined && request.cut.n < begun.n)) yield `${name} at ${begun.t.toFixed(1)} under ${tell(request)}`
    }
    for (const task of facts.steps) {
      // Nothing waits for work that begins after the drain.
      const isLate = task.begun.n > (facts.phase(i, 'closing')?.n ?? 0)
      if (task.i !== i || task.of !== 'task' || isLate || (task.ended !== undefined && task.ended.n < begun.n)) continue
      if (!facts.all('cut', i).some(({ entry, n }) => n < begun.n && entry.kind === 'task' && entry.name === task.name)) yield `${name} under ${task.name} of instance ${i}`
    }
  }
}

/** The count of requests in flight ends at zero, except for those that were cut and still run. */
export function * countsToZero (facts: Facts): Iterable<string> {
  for (const { i, t, n, count } of facts.all('report')) {
    const cut = facts.accepted(i).filter(request => request.cut !== undefined)
    // A hook ahead of the plugin has held it: that it is over is seen only when timeouts are checked.
    const isHeld = ({ handler, cut: event }: RequestFacts): boolean =>
      handler === undefined && event !== undefined && t - event.t < CHECK_INTERVAL + facts.lag(event.t, t)
    const left = cut.filter(request => isHeld(request) || facts.runs(request, n) || (request.sent?.n ?? Infinity) > n)
    if (count > left.length) yield `instance ${i} counts ${count} at its end, but ${left.length} were cut and still run`
  }
}
