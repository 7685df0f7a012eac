// Cutting requests that take too long: the client is told if it still can be, and the request is named in log and report.
// This is the only place that answers in a handler's place.

import type { FastifyError } from '@fastify/error'
import type { Connections } from '../connections/sockets.ts'
import type { SafeLog } from '../lifecycle/log.ts'
import type { PhaseClock } from '../lifecycle/phase.ts'
import type { Outcome } from '../lifecycle/report.ts'
import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import type { Tasks } from './tasks.ts'

/** Requests that have a log line of their own as they are cut by a shutdown: thousands would delay the exit. */
const MOST_NAMED = 1_000

export class Cuts {
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  readonly #tasks: Tasks
  readonly #connections: Connections
  readonly #outcome: Outcome
  readonly #log: SafeLog
  readonly #logged = new WeakSet<object>()

  constructor (phase: PhaseClock, inFlight: InFlight, tasks: Tasks, connections: Connections, outcome: Outcome, log: SafeLog) {
    this.#phase = phase
    this.#inFlight = inFlight
    this.#tasks = tasks
    this.#connections = connections
    this.#outcome = outcome
    this.#log = log
  }

  /** Ends a request in its handler's place. The handler itself cannot be stopped, and counts until it settles. */
  cut (exchange: Exchange, error: FastifyError): void {
    this.#name(exchange, error)
    if (exchange.isGone || exchange.isFinished) return
    if (exchange.isAnswered) {
      // Begun, or complete and not read: there is no whole answer any more.
      this.#abort(exchange, error)
      return
    }
    this.#inFlight.orphan(exchange)
    this.#connections.endConnectionOf(exchange)
    try {
      exchange.answer(error)
    } catch {
      // A writeHead of the user's, or of a middleware, throws.
      exchange.abort()
    }
    this.#inFlight.awaitAnswer(exchange)
    this.#inFlight.check(exchange)
  }

  /** With its connection, the other requests of a pipeline are lost, too. */
  #abort (exchange: Exchange, error: FastifyError): void {
    for (const other of this.#connections.sharing(exchange)) if (this.#inFlight.counts(other)) this.#name(other, error)
    exchange.abort()
    this.#inFlight.check(exchange)
  }

  /** Cuts everything that is in flight. A response that only waits for the one ahead of it is sent after that. */
  cutAll (error: FastifyError): void {
    // Chosen ahead of the first cut: behind that, one that waited is next, and would look as if its client did not read.
    const due = this.#inFlight.exchanges.filter(({ isWaitingForTurn }) => !isWaitingForTurn)
    for (const exchange of due) this.cut(exchange, error)
    if (this.#outcome.cutCount > MOST_NAMED) this.#log.error(`${this.#outcome.cutCount} requests cut in all; the report has each`)
    this.#nameTasks(error)
  }

  /** Cuts what is still not sent as connections are about to be closed. */
  cutRest (error: FastifyError): void {
    for (const exchange of this.#inFlight.exchanges) if (!exchange.isFinished && !exchange.isGone) this.cut(exchange, error)
  }

  /** Names everything that is in flight, without doing anything about it. */
  nameAll (error: FastifyError): void {
    for (const exchange of this.#inFlight.exchanges) this.#name(exchange, error)
    this.#nameTasks(error)
  }

  /** Background work can only be named. */
  #nameTasks (error: FastifyError): void {
    for (const [task, entry] of this.#tasks.entries()) {
      if (this.#logged.has(task)) continue
      this.#logged.add(task)
      this.#outcome.addCut(task, entry)
      this.#log.error(`Background work cut: ${entry.name}`, { ...entry, code: error.code })
    }
  }

  #name (exchange: Exchange, error: FastifyError): void {
    const entry = this.#inFlight.describe(exchange)
    if (this.#phase.current !== 'running') this.#outcome.addCut(exchange, entry)
    if (this.#logged.has(exchange) || this.#outcome.cutCount > MOST_NAMED) return
    this.#logged.add(exchange)
    this.#log.error(`Request cut: ${error.message}`, { ...entry, code: error.code })
  }
}
