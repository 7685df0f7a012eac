// What a run has shown, put in order: what became of each request, and when each instance reached each phase. The service writes its
// trace from one thread, so the order of two of its events is certain, whatever the clock says.

import type { Phase } from '../../types/index.ts'
import type { Answer } from './answer.ts'
import type { Observation } from './play.ts'
import type { Instance, Scenario, Work } from './scenario.ts'
import type { EventOf, StepKind, TraceEvent } from './trace.ts'
import { sumOf } from './lag.ts'
import { workOf } from './scenario.ts'

/** See lib/times.ts. */
const LOG_FLUSH = 550

export const FORGOTTEN = /^A handler or its stream has not ended since its client disconnected/

/** An event with its place in the trace. */
export type Placed<E extends TraceEvent['e']> = EventOf<E> & { n: number }

export interface RequestFacts {
  url: string
  i: number
  work: Work
  arrived?: Placed<'arrived'>
  handler?: Placed<'handler'>
  handled?: Placed<'handled'>
  sent?: Placed<'sent'>
  cut?: Placed<'cut'>
  /** Hooks that have begun, and those that have ended, in any order. */
  hooks: Array<Placed<'hook'>>
  hooked: Array<Placed<'hooked'>>
  answer?: Answer
}

export interface StepFacts {
  i: number
  of: StepKind
  name: string
  begun: Placed<'step'>
  ended?: Placed<'stepped'>
}

export class Facts {
  readonly scenario: Scenario
  readonly seen: Observation
  readonly events: Array<TraceEvent & { n: number }>
  readonly requests = new Map<string, RequestFacts>()
  readonly steps: StepFacts[] = []

  constructor (scenario: Scenario, seen: Observation) {
    this.scenario = scenario
    this.seen = seen
    this.events = seen.trace.map((event, n) => ({ ...event, n }))
    for (const answer of seen.answers) {
      const request = this.#request(answer.url)
      if (request !== undefined) request.answer = answer
    }
    for (const event of this.events) this.#place(event)
  }

  #request (url: string): RequestFacts | undefined {
    const known = this.requests.get(url)
    const work = workOf(this.scenario, url)
    if (known !== undefined || work === undefined) return known
    const i = this.scenario.clients[Number(/\d+/.exec(url)?.[0])]?.to ?? 0
    const request: RequestFacts = { url, i, work, hooks: [], hooked: [] }
    this.requests.set(url, request)
    return request
  }

  #place (event: TraceEvent & { n: number }): void {
    if (event.e === 'step') this.steps.push({ i: event.i, of: event.of, name: event.name, begun: event })
    if (event.e === 'stepped') {
      const step = this.steps.find(({ i, name }) => i === event.i && name === event.name)
      if (step !== undefined) step.ended = event
    }
    const url = event.e === 'cut' ? event.entry.kind === 'request' ? event.entry.url : undefined : 'url' in event ? event.url : undefined
    const request = url === undefined ? undefined : this.#request(url)
    if (request === undefined) return
    switch (event.e) {
    case 'arrived': request.arrived = event; break
    case 'handler': request.handler = event; break
    case 'handled': request.handled = event; break
    case 'sent': request.sent = event; break
    case 'cut': request.cut = event; break
    case 'hook': request.hooks.push(event); break
    case 'hooked': request.hooked.push(event); break
    }
  }

  /** How much later than asked for something between these times may have happened, because the machine was busy. */
  lag (from: number, to: number): number {
    return sumOf(this.seen.lags, from, to)
  }

  all<E extends TraceEvent['e']> (e: E, i?: number): Array<Placed<E>> {
    return this.events.filter((event): event is Placed<E> => event.e === e && (i === undefined || ('i' in event && event.i === i)))
  }

  get instances (): Array<{ i: number, instance: Instance }> {
    return this.scenario.instances.map((instance, i) => ({ i, instance }))
  }

  /** When an instance has reached a phase. */
  phase (i: number, phase: Phase): Placed<'phase'> | undefined {
    return this.all('phase', i).find(event => event.phase === phase)
  }

  /** The start of its shutdown. */
  start (i: number): Placed<'phase'> | undefined {
    return this.all('phase', i)[0]
  }

  /** From here on, an instance rejects requests. With an inherited listener, it serves them until the end of the drain. */
  gate (i: number): Placed<'phase'> | undefined {
    return this.phase(i, this.isInherited(i) ? 'closing' : 'draining')
  }

  /** From here on, it tells WebSockets and HTTP/2 sessions to go. */
  goodbye (i: number): Placed<'phase'> | undefined {
    return (this.scenario.instances[i]?.spread ?? 0) > 0 ? this.start(i) : this.phase(i, 'draining')
  }

  isInherited (i: number): boolean {
    return this.scenario.isInherited === true && i === 0
  }

  report (i: number): Placed<'report'> | undefined {
    return this.all('report', i)[0]
  }

  /** The requests to an instance that arrived before its gate shut. */
  accepted (i: number): RequestFacts[] {
    const gate = this.gate(i)?.n ?? Infinity
    return [...this.requests.values()].filter(request => request.i === i && request.arrived !== undefined && request.arrived.n < gate)
  }

  /** Those that arrived after it. */
  late (i: number): RequestFacts[] {
    const gate = this.gate(i)?.n ?? Infinity
    return [...this.requests.values()].filter(request => request.i === i && request.arrived !== undefined && request.arrived.n > gate)
  }

  /** The last line of a process that has exited before its shutdown was complete. */
  get forced (): string | undefined {
    return this.seen.log.find(({ msg }) => /^Second signal|^The process has not ended/.test(msg))?.msg
  }

  /** Whether an event comes after a forced exit has named what it cuts: the process then only writes its log, for a limited time. */
  isAfterForced (event: { n: number, t: number }): boolean {
    if (this.forced === undefined) return false
    const named = this.all('cut').find(({ code }) => code === 'FST_ERR_GRACEFUL_EXIT')
    if (named !== undefined) return event.n > named.n
    const { t = Infinity } = this.exit ?? {}
    return event.t > t - LOG_FLUSH - this.lag(t - LOG_FLUSH, t)
  }

  /** How the process has ended. A signal may end it after it has decided to exit. */
  get end (): { code: number | null, signal: NodeJS.Signals | null } {
    const { exit: { code, signal }, signals } = this.seen
    const { exit } = this
    if (signal !== null && exit !== undefined && signals.some(({ t }) => t > exit.t)) return { code: exit.code, signal: null }
    return { code, signal }
  }

  /** The exit as the service saw it. */
  get exit (): Placed<'exit'> | undefined {
    return this.all('exit')[0]
  }

  /**
   * The requests that no longer count because their client has disconnected and their handler has not answered for drainTimeout: one that
   * answers from a callback, or has hijacked its reply. See docs/lifecycle.md#what-is-waited-for.
   */
  get forgotten (): Set<unknown> {
    return new Set(this.seen.log.filter(({ msg }) => FORGOTTEN.test(msg)).map(({ url }) => url))
  }

  /**
   * Whether an earlier answer on its HTTP/1 connection has said that it is the last one: nothing may follow it. A handler that writes
   * the head itself may have done so before this request arrived, even if the client has not read it.
   */
  isBehindLast ({ answer }: RequestFacts): boolean {
    return answer !== undefined && [...this.requests.values()].some(({ answer: other, work, handler }) =>
      other?.client === answer.client && other.connection === answer.connection && other.before < answer.before &&
      (other.isLast === true || (work.answers === 'raw' && handler !== undefined)))
  }

  /** Whether something of a request runs at this place of the trace: its handler, or a hook that the drain waits for. */
  runs ({ handler, handled, hooks, hooked }: RequestFacts, n: number): boolean {
    const isBefore = (event: { n: number } | undefined): boolean => event !== undefined && event.n < n
    if (isBefore(handler) && !isBefore(handled)) return true
    // The drain does not wait for the onResponse hook of a rejected request.
    const isCounted = (event: { n: number, name: string }): boolean => isBefore(event) && (event.name !== 'onResponse' || handler !== undefined)
    const count = (events: Array<{ n: number, name: string }>): number => events.filter(isCounted).length
    return count(hooks) > count(hooked)
  }
}
