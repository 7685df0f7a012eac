// When connections are closed.

import type { Facts, RequestFacts } from '../facts.ts'
import { DRAINING_KEEP_ALIVE, LATE, tell } from './limits.ts'

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
    const end = facts.phase(i, isHttp2 || answer.before > 0 ? 'draining' : 'closing')?.t ?? (facts.forced === undefined ? Infinity : facts.exit?.t ?? 0)
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
    // The connection of a rejected upload stays open until the body is received.
    if (client.kind === 'uploader' || (client.kind === 'leaver' && client.body > 0)) continue
    if (arrived.n > (facts.start(i)?.n ?? Infinity) && answer.isLast !== true && work.answers !== 'raw') yield tell(request)
  }
}

/** WebSockets that are open as draining starts are closed with code 1001. */
export function * closesWebSockets (facts: Facts): Iterable<string> {
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
