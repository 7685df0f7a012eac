// What must be true of every run. Each function says what is wrong, with the facts. Only bounds of time allow for a busy machine.

import type { Facts, RequestFacts, StepFacts } from './facts.ts'
import { codeOf } from './answer.ts'
import { FORGOTTEN } from './facts.ts'
import { answerOf } from './scenario.ts'

type Invariant = (facts: Facts) => Iterable<string>

const SHUTTING_DOWN = 'FST_ERR_GRACEFUL_SHUTTING_DOWN'
const DRAIN_TIMEOUT = 'FST_ERR_GRACEFUL_DRAIN_TIMEOUT'
const FASTIFYS_503 = '{"error":"Service Unavailable","message":"Service Unavailable","statusCode":503}'
const EXIT = 'FST_ERR_GRACEFUL_EXIT'

/** Timers count whole milliseconds, and may fire a part of one early. */
const EARLY = 2

/** How much later than a deadline something may be on an idle machine. */
const LATE = 60

/** Waits of the plugin, see lib/times.ts and docs/lifecycle.md#phases. */
const QUIET = 200
const DRAINING_KEEP_ALIVE = 100
const LOG_FLUSH = 200

/** The part of shutdownTimeout that callbacks do not get. */
const EXIT_MARGIN = 0.05

function tell (request: RequestFacts): string {
  const { url, i, arrived, handler, handled, sent, cut, answer } = request
  const at = (event: { t: number } | undefined): string => event === undefined ? '-' : event.t.toFixed(1)
  const read = answer === undefined
    ? 'no answer'
    : `${answer.outcome} ${answer.status ?? ''} ${codeOf(answer) ?? ''} ${answer.error ?? ''} sent ${answer.sentAt.toFixed(1)} ended ${answer.endedAt.toFixed(1)}`
  return `${url} of instance ${i}: arrived ${at(arrived)}, handler ${at(handler)} to ${at(handled)}, sent ${at(sent)}, cut ${at(cut)}; client: ${read}`
}

/** An accepted request is answered in full, unless the log and the report name it as cut. */
function * answersWhatItAccepts (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.accepted(i)) {
      const { answer, cut, handler, url, work } = request
      if (answer === undefined || answer.outcome === 'left' || cut !== undefined) continue
      const status = work.answers === 'throw' ? 500 : 200
      const isRight = status === 500 ? codeOf(answer) === undefined : answer.body === answerOf(url, work)
      // What is pipelined behind a response that has said Connection: close is not handled.
      if (answer.outcome === 'none' && handler === undefined && facts.isBehindLast(request)) continue
      if (answer.outcome !== 'whole' || answer.status !== status || !isRight) yield tell(request)
    }
  }
}

/** A request that was cut gets a 503 that says so if its response had not begun, else no whole answer. */
function * answersWhatItCuts (facts: Facts): Iterable<string> {
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
function * servesNothingLate (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.late(i)) {
      const { answer, handler } = request
      if (handler !== undefined) yield `served: ${tell(request)}`
      if (answer === undefined || answer.outcome === 'left' || facts.forced !== undefined) continue
      if (answer.outcome === 'none' && facts.isBehindLast(request)) continue
      if (answer.outcome !== 'whole' && isOutOfTime(facts, i)) continue
      // A TLS handshake may end while WebSockets are still closing, after the plugin has closed the connections that it knows.
      if (answer.body === FASTIFYS_503 && /^https$|^h2$/.test(facts.scenario.protocol) && facts.seen.webSockets.length > 0) continue
      if (answer.outcome !== 'whole' || answer.status !== 503 || codeOf(answer) !== SHUTTING_DOWN) yield `no 503: ${tell(request)}`
    }
  }
}

/**
 * Whether an instance may have had no time to send what it has answered before it closes its connections: a quarter of the time for
 * closing, and this limits how late it may be.
 */
function isOutOfTime (facts: Facts, i: number): boolean {
  const [closing, closed] = [facts.phase(i, 'closing')?.t ?? 0, facts.phase(i, 'closed')?.t ?? Infinity]
  return facts.lag(closing, closed) > timeToClose(facts, i) / 8
}

/** The time for closing connections and for onClose hooks: half of what is left, if there are callbacks. */
function timeToClose (facts: Facts, i: number): number {
  const instance = facts.scenario.instances[i]
  if (instance === undefined) return 0
  const left = (facts.start(i)?.t ?? 0) + instance.shutdownTimeout * (1 - EXIT_MARGIN) - (facts.phase(i, 'closing')?.t ?? 0)
  return instance.callbacks.some(({ when }) => when === 'end') ? left / 2 : left
}

/** Nothing is rejected before the gate is shut. */
function * rejectsNothingEarly (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    for (const request of facts.accepted(i)) {
      if (request.answer !== undefined && codeOf(request.answer) === SHUTTING_DOWN) yield tell(request)
    }
  }
}

/**
 * Before an instance closes its connections, no connection is refused or reset. Documented limits: a connection that becomes idle
 * while draining is closed after 100 ms (docs/lifecycle.md#connections); HTTP/2 streams are refused after GOAWAY
 * (docs/long-lived-connections.md#http2).
 */
function * resetsNothingEarly (facts: Facts): Iterable<string> {
  for (const request of facts.requests.values()) {
    const { answer, arrived, i } = request
    if (arrived !== undefined || answer === undefined || answer.outcome === 'left') continue
    const isHttp2 = facts.scenario.clients[answer.client]?.http === 2
    const end = facts.phase(i, isHttp2 || answer.before > 0 ? 'draining' : 'closing')?.t ?? (facts.forced === undefined ? Infinity : facts.exit?.t ?? 0)
    if (answer.endedAt < Math.min(end, facts.exit?.t ?? Infinity)) yield tell(request)
    else if (!isHttp2 && answer.before > 0 && answer.endedAt < (facts.phase(i, 'closing')?.t ?? Infinity)) {
      const idle = lastOf(facts, request)
      if (answer.sentAt - idle < DRAINING_KEEP_ALIVE - LATE - facts.lag(idle, answer.endedAt)) yield `idle for ${(answer.sentAt - idle).toFixed(1)}: ${tell(request)}`
    }
  }
}

/** When the connection of a request became idle before it. */
function lastOf (facts: Facts, { answer }: RequestFacts): number {
  const others = facts.seen.answers.filter(({ client, connection, before }) =>
    client === answer?.client && connection === answer.connection && before === answer.before - 1)
  return Math.max(-Infinity, ...others.map(({ endedAt }) => endedAt))
}

/** Requests and work are cut at drainTimeout, or by a forced exit; not earlier, and not if they are done. */
function * cutsNothingEarly (facts: Facts): Iterable<string> {
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
function * namesWhatItCuts (facts: Facts): Iterable<string> {
  for (const { i } of facts.instances) {
    // A forced exit writes the log after it has named what it cuts.
    const end = facts.steps.find(step => step.i === i && isCleanup(step))?.begun ?? facts.phase(i, 'closed') ?? facts.all('cut').find(({ code }) => code === EXIT) ?? facts.exit
    if (end === undefined) continue
    const named = end.e === 'exit' ? end.t - LOG_FLUSH - LATE - facts.lag(end.t - LOG_FLUSH, end.t) : Infinity
    for (const request of facts.accepted(i)) {
      if ((request.arrived?.t ?? 0) > named) continue
      if (facts.runs(request, end.n) && request.cut === undefined && !facts.forgotten.has(request.url)) yield `not named: ${tell(request)}`
    }
    for (const { i: of, of: kind, name, begun, ended } of facts.steps) {
      if (of !== i || kind !== 'task' || begun.t > named || begun.n > (facts.phase(i, 'closing') ?? end).n || (ended !== undefined && ended.n < end.n)) continue
      if (!facts.all('cut', i).some(({ entry }) => entry.kind === 'task' && entry.name === name)) yield `not named: ${name} of instance ${i}`
    }
  }
}

function isCleanup ({ of, name }: StepFacts): boolean {
  return of === 'onClose' || (of === 'callback' && name.startsWith('end'))
}

/** No callback and no onClose hook runs while a handler, a hook of a request or a task runs, unless that was cut. */
function * cleansUpAfterHandlers (facts: Facts): Iterable<string> {
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
function * countsToZero (facts: Facts): Iterable<string> {
  for (const { i, n, count } of facts.all('report')) {
    const left = facts.accepted(i).filter(request => request.cut !== undefined && facts.runs(request, n))
    if (count > left.length) yield `instance ${i} counts ${count} at its end, but ${left.length} were cut and still run`
  }
}

/** The process ends within shutdownTimeout, each drain within drainTimeout. */
function * endsInTime (facts: Facts): Iterable<string> {
  const { exit, seen } = facts
  const starts = facts.instances.map(({ i }) => facts.start(i)?.t ?? Infinity)
  const begun = Math.min(...starts)
  const timeouts = facts.scenario.instances.map(({ shutdownTimeout }) => shutdownTimeout)
  const limit = begun + Math.max(...timeouts) + LATE + facts.lag(begun, Infinity)
  if (exit === undefined || seen.exit.signal !== null) yield `the process ended with ${seen.exit.signal}`
  else if (exit.t > limit) yield `exit at ${exit.t.toFixed(1)}, after ${limit.toFixed(1)}`
  const margin = EXIT_MARGIN * Math.min(...timeouts)
  if (facts.forced?.startsWith('The process has not ended') === true && facts.all('report').length < facts.instances.length && facts.lag(begun, Infinity) < margin / 2) yield facts.forced
  for (const { i, instance } of facts.instances) {
    const [draining, closing] = [facts.phase(i, 'draining'), facts.phase(i, 'closing')]
    if (draining === undefined || closing === undefined) continue
    const drain = closing.t - draining.t
    if (drain > instance.drainTimeout + QUIET + LATE + facts.lag(draining.t, closing.t)) yield `instance ${i} drains for ${drain.toFixed(1)}`
  }
}

/** The delay is as long as asked for, and not over before that, except on SIGINT. */
function * delaysAsAsked (facts: Facts): Iterable<string> {
  for (const { i, instance: { shutdownDelay, ahead } } of facts.instances) {
    const [delaying, draining] = [facts.phase(i, 'delaying'), facts.phase(i, 'draining')]
    const { max, quiet } = typeof shutdownDelay === 'number' ? { max: shutdownDelay, quiet: shutdownDelay } : shutdownDelay
    const isSkipped = facts.seen.signals.some(({ kind }) => kind === 'SIGINT')
    if (max > 0 && delaying === undefined && draining !== undefined && !isSkipped) yield `instance ${i} has no delay`
    if (delaying === undefined || draining === undefined) continue
    const took = draining.t - delaying.t
    if (took > max + LATE + facts.lag(delaying.t, draining.t)) yield `instance ${i} delays for ${took.toFixed(1)}`
    if (isSkipped) continue
    const arrivals = facts.accepted(i).map(({ arrived }) => arrived?.t ?? 0).filter(t => t > delaying.t)
    // A hook before the plugin may hold a request.
    const last = ahead === undefined || ahead === 0 ? Math.max(delaying.t, ...arrivals) : delaying.t
    const least = Math.min(delaying.t + max, last + quiet)
    if (draining.t < least - EARLY) yield `instance ${i} delays until ${draining.t.toFixed(1)}, not ${least.toFixed(1)}`
  }
}

/** The exit code is 0 exactly if nothing was cut and nothing failed. */
function * exitsTruly (facts: Facts): Iterable<string> {
  const code = facts.seen.exit.code
  const reasons = facts.instances.flatMap(({ i }) => failures(facts, i))
  if (facts.forced !== undefined) reasons.push(facts.forced)
  if (code !== (reasons.length > 0 ? 1 : 0)) yield `exit code ${code}, but: ${reasons.join('; ') || 'nothing has failed'}`
  for (const { i, report } of facts.all('report')) {
    const failed = failures(facts, i)
    if (report.exitCode !== (failed.length > 0 ? 1 : 0)) yield `report of instance ${i}: exit code ${report.exitCode}, but: ${failed.join('; ') || 'nothing has failed'}`
  }
}

/** Whether closing has taken about as long as it may, so that callbacks run meanwhile. */
function isCloseLate (facts: Facts, i: number): boolean {
  const closing = facts.phase(i, 'closing')?.t ?? Infinity
  const end = facts.steps.find(step => step.i === i && step.of === 'callback' && isCleanup(step))?.begun.t ?? facts.phase(i, 'closed')?.t ?? 0
  return end - closing > timeToClose(facts, i) - EARLY && facts.report(i)?.report.errors.some(message => message.startsWith('Closing did not end within')) === true
}

/** What has failed in an instance, as its own code, its clients and the cuts show. */
function failures (facts: Facts, i: number): string[] {
  const end = facts.report(i)?.n ?? Infinity
  const start = facts.start(i)?.n ?? Infinity
  const reasons = facts.all('cut', i).map(({ entry }) => `cut ${entry.kind === 'task' ? entry.name : entry.url}`)
  for (const step of facts.steps) {
    const { of: kind, name, ended } = step
    if (step.i !== i) continue
    if (kind === 'task' && (ended === undefined || ended.n < start || ended.n > end)) continue
    if (ended === undefined || ended.n > end || ended.isFailed || overruns(facts, step)) reasons.push(name)
  }
  if (isCloseLate(facts, i)) reasons.push('closing has taken too long')
  for (const { kind, n } of facts.all('trigger')) {
    if (n < end && (kind === 'throw' || kind === 'reject')) reasons.push(kind)
  }
  return reasons
}

/**
 * Whether a callback has taken longer than it may, see docs/background-work.md#how-much-time-a-callback-has. If it has taken about as
 * long, the report decides.
 */
function overruns (facts: Facts, { i, of, name, begun, ended }: StepFacts): boolean {
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

function namesOf (names: ReadonlyArray<string | undefined>): string {
  return names.map(String).sort((a, b) => a.localeCompare(b)).join(' ')
}

/** The report says what has happened. */
function * reportsTruly (facts: Facts): Iterable<string> {
  for (const { i, report, n } of facts.all('report')) {
    const start = facts.start(i)?.n ?? Infinity
    const cuts = facts.all('cut', i).filter(cut => cut.n > start && cut.n < n).map(({ entry }) => entry.kind === 'task' ? entry.name : entry.url)
    const reported = report.cut.map(entry => entry.kind === 'task' ? entry.name : entry.url)
    if (namesOf(cuts) !== namesOf(reported)) yield `instance ${i} reports as cut ${reported.join(' ')}, but has cut ${cuts.join(' ')}`
    const refused = facts.all('refused', i).length
    if (report.refused !== refused) yield `instance ${i} reports ${report.refused} refused, not ${refused}`
    const read = facts.late(i).filter(({ answer }) => answer !== undefined && codeOf(answer) === SHUTTING_DOWN).length
    if (read > report.refused) yield `instance ${i} reports ${report.refused} refused, but clients have read ${read}`
    // An HTTP/2 response may be complete before Node says so.
    const isHttp2 = ({ answer }: RequestFacts): boolean => facts.scenario.clients[answer?.client ?? -1]?.http === 2
    const whole = facts.accepted(i).filter(request => {
      const { answer, cut, sent, handled } = request
      const isAfter = (handled?.n ?? 0) > start || (!isHttp2(request) && sent !== undefined && sent.n > start)
      return cut === undefined && answer?.outcome === 'whole' && isAfter && sent !== undefined && sent.n < n
    }).length
    if (report.completed < whole) yield `instance ${i} reports ${report.completed} completed, but clients have read ${whole}`
    const most = facts.accepted(i).filter(({ sent, handled }) => Math.max(sent?.n ?? Infinity, handled?.n ?? 0) > start).length
    if (report.completed > most) yield `instance ${i} reports ${report.completed} completed, but at most ${most} were`
    const registered = facts.scenario.instances[i]?.callbacks ?? []
    const names = registered.map(({ when }, index) => `${when} ${index}`)
    if (namesOf(report.callbacks.map(({ name }) => name)) !== namesOf(names)) yield `instance ${i} reports the callbacks ${report.callbacks.map(({ name }) => name).join(', ')}`
    for (const { name, error } of report.callbacks) {
      const step = facts.steps.find(({ i: of, name: other }) => of === i && other === name)
      const isFailed = step?.ended === undefined || step.ended.n > n || step.ended.isFailed || overruns(facts, step)
      if (isFailed !== (error !== undefined)) yield `instance ${i} reports for ${name}: ${error ?? 'no error'}`
    }
  }
}

/** Phases, hooks and callbacks come in the documented order, and every callback runs. */
function * keepsOrder (facts: Facts): Iterable<string> {
  const phases = ['delaying', 'draining', 'closing', 'closed']
  for (const { i, instance } of facts.instances) {
    const seen = facts.all('phase', i).map(({ phase }) => phase)
    if (String(seen) !== String(phases.filter(phase => seen.includes(phase)))) yield `instance ${i}: ${seen.join(', ')}`
    const [start, draining, closing] = [facts.start(i), facts.phase(i, 'draining'), facts.phase(i, 'closing')]
    const steps = facts.steps.filter(step => step.i === i)
    for (const { of, name, begun } of steps) {
      const earliest = of === 'preClose' ? draining : of === 'onClose' || name.startsWith('end') ? closing : undefined
      if (of !== 'task' && (start === undefined || (earliest !== undefined && begun.n < earliest.n))) yield `instance ${i}: ${name} is early`
    }
    const inOrder = steps.filter(({ of, name }) => of === 'callback' && name.startsWith('end')).map(({ name }) => name)
    const expected = instance.callbacks.map(({ when }, index) => `${when} ${index}`).filter(name => name.startsWith('end'))
    if (String(inOrder) !== String(expected.slice(0, inOrder.length))) yield `instance ${i}: callbacks run as ${inOrder.join(', ')}`
    if (facts.report(i) !== undefined && inOrder.length < expected.length) yield `instance ${i}: only ${inOrder.join(', ') || 'no callback'} of ${expected.join(', ')} has run`
    const onClose = steps.filter(({ of }) => of === 'onClose')
    const firstEnd = steps.find(({ of, name }) => of === 'callback' && name.startsWith('end'))
    if (firstEnd !== undefined && !isCloseLate(facts, i) && onClose.some(({ begun }) => begun.n > firstEnd.begun.n)) yield `instance ${i}: an onClose hook after a callback`
    // Nothing waits for an accepted request any more once the first callback runs.
    if (facts.forced === undefined && facts.report(i) === undefined) yield `instance ${i} has no report`
  }
}

/** Nothing is logged as a warning or an error, and nothing is on stderr, that is not meant. */
function * saysNothingElse (facts: Facts): Iterable<string> {
  const { log, stderr } = facts.seen
  if (stderr !== '') yield `stderr: ${stderr.slice(0, 2_000)}`
  for (const { text } of facts.all('warning')) yield `warning: ${text}`
  const isMeant = [
    /times are in milliseconds/, /^Request cut: /, /^Background work (cut|failed): /, /^Shutdown callback ".*" failed after/,
    /fails on purpose$/,
    /^Uncaught error$/, /^Second signal/, /^The process exits before the shutdown is complete$/, /^Shutdown complete, but not everything/,
    /^The (preClose|onClose) hook .* failed|^The anonymous (preClose|onClose) hook/, /^Fastify was not closed cleanly$/,
    /^A preClose hook is not waited for/,
    /^The process has not ended within/, FORGOTTEN
  ]
  for (const line of log) {
    // The handler of a request that was cut goes on, and answers.
    if (line.msg === 'Promise errored, but reply.sent = true was set' && facts.all('cut').length > 0) continue
    const sentTwice = /"(\/work\/[^"]+)" \(/.exec(String((line.err as Error | undefined)?.message))?.[1] ?? ''
    if (facts.requests.get(sentTwice)?.cut !== undefined) continue
    if (line.level >= 40 && !isMeant.some(pattern => pattern.test(line.msg))) yield `log: ${JSON.stringify(line).slice(0, 1_000)}`
  }
  for (const url of facts.forgotten) {
    const answers = facts.requests.get(String(url))?.work.answers
    if (answers !== 'raw' && answers !== 'callback') yield `${String(url)} no longer counts, but its handler ${answers}s`
  }
  for (const { i, report } of facts.all('report')) {
    const last = log.findLast(({ name }) => name === `instance ${i}`)
    const complete = log.filter(({ name, msg }) => name === `instance ${i}` && msg === 'Graceful shutdown complete').length
    if (complete !== (report.exitCode === 0 ? 1 : 0)) yield `instance ${i}: ${complete} lines say that the shutdown is complete`
    if (last?.msg.startsWith('Waiting for') === true) yield `instance ${i}: the last line is ${last.msg}`
  }
}

/** Readiness follows the phase, and the probes are never rejected by the gate. */
function * probesTruly (facts: Facts): Iterable<string> {
  for (const answer of facts.seen.answers) {
    if (answer.url !== '/ready' && answer.url !== '/health') continue
    const { to = 0 } = facts.scenario.clients[answer.client] ?? {}
    const start = facts.start(to)?.t ?? Infinity
    const what = `${answer.url} of instance ${to} at ${answer.sentAt.toFixed(1)} to ${answer.endedAt.toFixed(1)}: ${answer.outcome} ${answer.status ?? ''}, the shutdown starts at ${start.toFixed(1)}`
    if (answer.outcome === 'whole') {
      if (answer.endedAt < start && answer.status !== 200) yield what
      if (answer.sentAt > start && answer.status !== 503) yield what
      if (codeOf(answer) !== undefined) yield `rejected: ${what}`
    } else if (answer.outcome !== 'left' && answer.endedAt < Math.min(facts.phase(to, 'closing')?.t ?? Infinity, facts.exit?.t ?? Infinity)) {
      yield what
    }
  }
}

/** After the start of the shutdown, the answer to a single HTTP/1 request says that its connection closes. */
function * closesConnections (facts: Facts): Iterable<string> {
  for (const request of facts.requests.values()) {
    const { answer, arrived, i, work } = request
    const client = facts.scenario.clients[answer?.client ?? -1]
    if (answer?.outcome !== 'whole' || arrived === undefined || client?.http !== 1 || client.kind === 'burst' || client.kind === 'uploader') continue
    if (arrived.n > (facts.start(i)?.n ?? Infinity) && answer.isLast !== true && work.answers !== 'raw') yield tell(request)
  }
}

/** A second signal exits at once, a copy of the first does not. */
function * knowsCopies (facts: Facts): Iterable<string> {
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

/** WebSockets that are open as draining starts are closed with code 1001. */
function * closesWebSockets (facts: Facts): Iterable<string> {
  for (const visit of facts.seen.webSockets) {
    const client = facts.scenario.clients[visit.client]
    if (client?.kind !== 'websocket') continue
    const draining = facts.phase(client.to, 'draining')
    const what = JSON.stringify(visit)
    if (draining === undefined || facts.forced !== undefined) continue
    if (visit.openedAt !== undefined && visit.endedAt < draining.t) yield `closed early: ${what}, draining at ${draining.t.toFixed(1)}`
    if (visit.openedAt !== undefined && visit.openedAt < draining.t && client.answersClose && visit.code !== 1001) yield `no code 1001: ${what}, draining at ${draining.t.toFixed(1)}`
    if (visit.openedAt === undefined && visit.endedAt < draining.t) yield `never open: ${what}`
  }
}

export const INVARIANTS: Record<string, Invariant> = {
  answersWhatItAccepts, answersWhatItCuts, servesNothingLate, rejectsNothingEarly, resetsNothingEarly, cutsNothingEarly, namesWhatItCuts,
  cleansUpAfterHandlers, countsToZero, endsInTime, delaysAsAsked, exitsTruly, reportsTruly, keepsOrder, saysNothingElse, probesTruly,
  closesConnections, knowsCopies, closesWebSockets
}

/** What is wrong with a run, by invariant. */
export function violations (facts: Facts): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const [name, invariant] of Object.entries(INVARIANTS)) {
    const wrong = [...invariant(facts)]
    if (wrong.length > 0) found.set(name, wrong)
  }
  return found
}
