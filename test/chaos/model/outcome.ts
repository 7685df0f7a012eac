// The exit code, the report and the log.

import type { InFlightEntry } from '../../../types/index.ts'
import type { Facts, RequestFacts } from '../facts.ts'
import { ExitError } from '../../../lib/errors.ts'
import { codeOf } from '../answer.ts'
import { FORGOTTEN } from '../facts.ts'
import { isTls } from '../scenario.ts'
import { EARLY, SHUTTING_DOWN, isCloseLate, overruns, tell } from './limits.ts'

/** The message of FST_ERR_GRACEFUL_EXIT. */
const EXITED = new ExitError().message

/** What has failed in an instance, as its own code, its clients and the cuts show. */
function failures (facts: Facts, i: number): string[] {
  const end = facts.report(i)?.n ?? Infinity
  const start = facts.start(i)?.n ?? Infinity
  const reasons = facts.all('cut', i).map(({ entry }) => `cut ${nameOf(entry)}`)
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

/** The exit code is 0 exactly if nothing was cut and nothing failed. */
export function * exitsTruly (facts: Facts): Iterable<string> {
  const { code } = facts.end
  const reasons = facts.instances.flatMap(({ i }) => failures(facts, i))
  if (facts.forced !== undefined) reasons.push(facts.forced)
  if (code !== (reasons.length > 0 ? 1 : 0)) yield `exit code ${code}, but: ${reasons.join('; ') || 'nothing has failed'}`
  for (const { i, report } of facts.all('report')) {
    const failed = failures(facts, i)
    // A second signal may come as the last callback ends: the shutdown then ends while the process writes its log.
    if (facts.forced !== undefined && report.errors.includes(EXITED)) failed.push(facts.forced)
    if (report.exitCode !== (failed.length > 0 ? 1 : 0)) yield `report of instance ${i}: exit code ${report.exitCode}, but: ${failed.join('; ') || 'nothing has failed'}`
  }
}

function nameOf (entry: InFlightEntry): string | undefined {
  return entry.kind === 'task' ? entry.name : entry.url
}

function namesOf (names: ReadonlyArray<string | undefined>): string {
  return names.map(String).sort((a, b) => a.localeCompare(b)).join(' ')
}

/** The report says what has happened. */
export function * reportsTruly (facts: Facts): Iterable<string> {
  for (const { i, report, n } of facts.all('report')) {
    const start = facts.start(i)?.n ?? Infinity
    const cuts = facts.all('cut', i).filter(cut => cut.n > start && cut.n < n).map(({ entry }) => nameOf(entry))
    const reported = report.cut.map(nameOf)
    if (namesOf(cuts) !== namesOf(reported)) yield `instance ${i} reports as cut ${reported.join(' ')}, but has cut ${cuts.join(' ')}`
    const refused = facts.all('refused', i).filter(event => event.n < n).length
    if (report.refused !== refused) yield `instance ${i} reports ${report.refused} refused, not ${refused}`
    const late = facts.late(i).filter(({ arrived }) => (arrived?.n ?? Infinity) < n)
    // If closing has taken too long, requests are still rejected after the report.
    const afterwards = new Set(facts.all('refused', i).filter(event => event.n > n).map(({ url }) => url))
    const read = late.filter(({ answer, url }) => answer !== undefined && codeOf(answer) === SHUTTING_DOWN && !afterwards.has(url)).length
    if (read > report.refused) yield `instance ${i} reports ${report.refused} refused, but clients have read ${read}`
    // An HTTP/2 response may be complete before Node says so.
    const isHttp2 = ({ answer }: RequestFacts): boolean => facts.scenario.clients[answer?.client ?? -1]?.http === 2
    // Node confirms a write below TLS in a later turn, and a client that has read the answer may have reset the connection by then.
    const mayReset = ({ answer }: RequestFacts): boolean => {
      const client = facts.scenario.clients[answer?.client ?? -1]
      return isTls(facts.scenario) && client?.kind === 'leaver' && client.reset
    }
    const whole = facts.accepted(i).filter(request => {
      const { answer, cut, sent, handled } = request
      const isAfter = (handled?.n ?? 0) > start || (!isHttp2(request) && sent !== undefined && sent.n > start)
      return cut === undefined && answer?.outcome === 'whole' && !mayReset(request) && isAfter && sent !== undefined && sent.n < n
    }).length
    if (report.completed < whole) yield `instance ${i} reports ${report.completed} completed, but clients have read ${whole}`
    // After its preClose hook, @fastify/websocket answers handshakes with 404.
    const handshakes = facts.all('arrived', i).filter(({ url }) => url === '/websocket').length
    const wasInFlight = (request: RequestFacts) =>
      Math.max(request.sent?.n ?? Infinity, request.handled?.n ?? 0) > start || facts.runs(request, start)
    const most = handshakes + facts.accepted(i).filter(wasInFlight).length
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
export function * keepsOrder (facts: Facts): Iterable<string> {
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

const ANSWERS_LATER = /^Promise errored, but reply\.sent = true was set$|^response will send, but you shouldn't use res\.writeHead/

/** Nothing is logged as a warning or an error, and nothing is on stderr, that is not meant. */
export function * saysNothingElse (facts: Facts): Iterable<string> {
  const { log, stderr } = facts.seen
  if (stderr !== '') yield `stderr: ${stderr.slice(0, 2_000)}`
  for (const { text } of facts.all('warning')) yield `warning: ${text}`
  const isMeant = [
    /times are in milliseconds/, /^Request cut: /, /^Background work (cut|failed): /, /^Shutdown callback ".*" failed after/,
    /fails on purpose$/,
    /^Uncaught error$/, /^Second signal/, /^The process exits before the shutdown is complete$/, /^Shutdown complete, with errors$/,
    /^The (preClose|onClose) hook .* failed|^The anonymous (preClose|onClose) hook/, /^Fastify was not closed cleanly$/,
    /^A preClose hook is not waited for/,
    /^The process has not ended within/, FORGOTTEN
  ]
  for (const line of log) {
    // The handler of a request that was cut goes on, and answers.
    if (ANSWERS_LATER.test(line.msg) && facts.all('cut').length > 0) continue
    // The stream of a hook, whose client has disconnected or was cut.
    if (line.msg === 'Premature close' && facts.requests.get(String((line.req as { url: string } | undefined)?.url))?.answer?.outcome !== 'whole') continue
    const sentTwice = /"(\/work\/[^"]+)" \(/.exec(String((line.err as Error | undefined)?.message))?.[1] ?? ''
    if (facts.requests.get(sentTwice)?.cut !== undefined) continue
    if (line.level >= 40 && !isMeant.some(pattern => pattern.test(line.msg))) yield `log: ${JSON.stringify(line).slice(0, 1_000)}`
  }
  for (const url of facts.forgotten) {
    const request = facts.requests.get(String(url))
    if (request === undefined) continue
    const { i, work: { answers }, arrived, handler } = request
    // Hooks before the handler have held it for too long.
    const isHeld = (handler?.t ?? Infinity) - (arrived?.t ?? 0) >= (facts.scenario.instances[i]?.drainTimeout ?? 0) - EARLY
    if (answers !== 'raw' && answers !== 'callback' && !isHeld) yield `no longer counts: ${tell(request)}`
  }
  for (const { i, report } of facts.all('report')) {
    const last = log.findLast(({ name }) => name === `instance ${i}`)
    const complete = log.filter(({ name, msg }) => name === `instance ${i}` && msg === 'Graceful shutdown complete').length
    if (complete !== (report.exitCode === 0 ? 1 : 0)) yield `instance ${i}: ${complete} lines say that the shutdown is complete`
    if (last?.msg.startsWith('Waiting for') === true) yield `instance ${i}: the last line is ${last.msg}`
  }
}
