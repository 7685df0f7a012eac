// When connections are closed.

import type { Facts, RequestFacts } from '../facts.ts'
import { DRAINING_KEEP_ALIVE, EARLY, LATE, SPREAD_INTERVAL, tell } from './limits.ts'

/** When the connection of a request became idle before it. */
function lastOf (facts: Facts, { answer }: RequestFacts): number {
  const others = facts.seen.answers.filter(({ client, connection, before }) =>
    client === answer?.client && connection === answer.connection && before === answer.before - 1)
  return Math.max(-Infinity, ...others.map(({ endedAt }) => endedAt))
}

/**
 * Before an instance closes its connections, no connection is refused or reset. Documented limits: a connection that becomes idle
 * while draining is closed after 100 ms (docs/lifecycle.md#connections); HTTP/2 streams are refused after GOAWAY
 * (docs/long-lived-connections.md#http2).
 */
export function * resetsNothingEarly (facts: Facts): Iterable<string> {
  for (const request of facts.requests.values()) {
    const { answer, arrived, i } = request
    if (arrived !== undefined || answer === undefined || answer.outcome === 'left') continue
    const isHttp2 = facts.scenario.clients[answer.client]?.http === 2
    const ending = isHttp2 ? facts.goodbye(i) : facts.phase(i, answer.before > 0 ? 'draining' : 'closing')
    const end = ending?.t ?? (facts.forced === undefined ? Infinity : facts.exit?.t ?? 0)
    const exit = facts.exit?.t ?? Infinity
    if (answer.endedAt < Math.min(end, exit)) yield tell(request)
    else if (!isHttp2 && answer.before > 0 && answer.endedAt < Math.min(facts.phase(i, 'closing')?.t ?? Infinity, exit)) {
      const idle = lastOf(facts, request)
      if (answer.sentAt - idle < DRAINING_KEEP_ALIVE - LATE - facts.lag(idle, answer.endedAt)) yield `idle for ${(answer.sentAt - idle).toFixed(1)}: ${tell(request)}`
    }
  }
}

/** After the start of the shutdown, the answer to a single HTTP/1 request says that its connection closes. */
export function * closesConnections (facts: Facts): Iterable<string> {
  for (const request of facts.requests.values()) {
    const { answer, arrived, i, work } = request
    const client = facts.scenario.clients[answer?.client ?? -1]
    if (answer?.outcome !== 'whole' || arrived === undefined || client?.http !== 1 || client.kind === 'burst') continue
    if (arrived.n > (facts.start(i)?.n ?? Infinity) && answer.isLast !== true && work.answers !== 'raw') yield tell(request)
  }
}

/** WebSockets that are open as draining starts are closed with code 1001, and not earlier; with `spread`, not before the shutdown. */
export function * closesWebSockets (facts: Facts): Iterable<string> {
  for (const visit of facts.seen.webSockets) {
    const client = facts.scenario.clients[visit.client]
    if (client?.kind !== 'websocket') continue
    const [draining, goodbye] = [facts.phase(client.to, 'draining'), facts.goodbye(client.to)]
    const what = JSON.stringify(visit)
    if (draining === undefined || goodbye === undefined || facts.forced !== undefined) continue
    if (visit.openedAt !== undefined && visit.endedAt < goodbye.t) yield `closed early: ${what}, told from ${goodbye.t.toFixed(1)}`
    if (visit.openedAt !== undefined && visit.openedAt < draining.t && client.answersClose && visit.code !== 1001) yield `no code 1001: ${what}, draining at ${draining.t.toFixed(1)}`
    if (visit.openedAt === undefined && visit.endedAt < draining.t) yield `never open: ${what}`
  }
}

/**
 * With `spread`, WebSockets are told to go evenly over that time, see docs/long-lived-connections.md#spread. HTTP/2 sessions are told
 * before them, and what opens later is told too, so this says only how many may have been told, at most.
 */
export function * spreadsGoodbyes (facts: Facts): Iterable<string> {
  if (facts.forced !== undefined || facts.seen.signals.some(({ kind }) => kind === 'SIGINT')) return
  for (const { i, instance: { spread = 0 } } of facts.instances) {
    const [start, closing] = [facts.start(i), facts.phase(i, 'closing')]
    const isHere = ({ client }: { client: number }): boolean => facts.scenario.clients[client]?.to === i
    const sessions = new Set(facts.seen.answers.filter(isHere).map(({ client, connection }) => `${client} ${connection}`)).size
    const visits = facts.seen.webSockets.filter(isHere)
    const ends = visits.filter(({ code }) => code === 1001).map(({ endedAt }) => endedAt).sort((a, b) => a - b)
    if (spread === 0 || start === undefined || closing === undefined) continue
    for (const [index, end] of ends.entries()) {
      const evenly = start.t + index * spread / (visits.length + sessions) - SPREAD_INTERVAL - EARLY - facts.lag(start.t, end)
      if (end < Math.min(evenly, closing.t)) yield `instance ${i} has told ${index + 1} of ${visits.length} at ${end.toFixed(1)}, not after ${evenly.toFixed(1)}`
    }
  }
}
