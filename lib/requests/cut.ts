// Cuts requests that take too long: the client gets an answer if that is still possible, and log and report name the request.
// `Exchange.answer` is called only here, by the gate and by the probes.

import type { FastifyError } from '@fastify/error'
import type { Connection } from '../connections/connection.ts'
import type { Channels } from '../lifecycle/channels.ts'
import type { SafeLog } from '../lifecycle/log.ts'
import type { PhaseClock } from '../lifecycle/phase.ts'
import type { Outcome } from '../lifecycle/report.ts'
import type { Exchange } from './exchange.ts'
import type { InFlight } from './in-flight.ts'
import type { Tasks } from './tasks.ts'
import { now } from '../clock.ts'
import { errorBody } from '../errors.ts'
import { EXIT_FLUSH } from '../times.ts'
import { attemptEach } from '../values.ts'

/** How many requests cut by a shutdown have a log line of their own: thousands would delay the exit. */
const MOST_NAMED = 1_000

export class Cuts {
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  readonly #tasks: Tasks
  readonly #outcome: Outcome
  readonly #log: SafeLog
  readonly #channels: Channels
  readonly #named = new WeakSet<object>()
  /** The number of the oldest request of a connection that is aborted. Those behind it are lost. */
  readonly #lostFrom = new WeakMap<Connection, number>()
  /** The begun responses that are to be aborted in their turn. */
  readonly #waiting = new WeakSet<Exchange>()

  constructor (phase: PhaseClock, inFlight: InFlight, tasks: Tasks, outcome: Outcome, log: SafeLog, channels: Channels) {
    this.#phase = phase
    this.#inFlight = inFlight
    this.#tasks = tasks
    this.#outcome = outcome
    this.#log = log
    this.#channels = channels
  }

  /**
   * Ends a request in its handler's place. The handler cannot be stopped, and counts until it settles.
   * @param option the timeout, if a route may have its own
   */
  cut (exchange: Exchange, error: FastifyError, option?: 'readTimeout' | 'writeTimeout'): void {
    this.name(exchange, error, option)
    if (exchange.isGone || exchange.isFinished) return
    if (exchange.isCommitted) {
      // Begun, or complete but not read: a whole answer is no longer possible.
      this.#abort(exchange, error)
      return
    }
    this.#inFlight.orphan(exchange)
    exchange.connection?.newest?.endConnection()
    exchange.keepSignal()
    exchange.answer(error.statusCode as number, errorBody(error))
    this.#inFlight.awaitAnswer(exchange)
    this.#inFlight.check(exchange)
  }

  /** Closing the connection also loses the later requests of a pipeline. */
  #abort (exchange: Exchange, error: FastifyError): void {
    this.#nameFollowing(exchange, error)
    if (exchange.isQueued) {
      this.#abortInTurn(exchange)
      return
    }
    exchange.abort()
    this.#inFlight.check(exchange)
  }

  /**
   * The newest first. Behind a request that is lost already, only those that have arrived since are not named yet: with each cut of a
   * pipeline naming all of it, thousands of requests would block the event loop.
   */
  #nameFollowing (exchange: Exchange, error: FastifyError): void {
    const { connection, number } = exchange
    if (connection === undefined) return
    const isLost = (this.#lostFrom.get(connection) ?? Infinity) <= number
    for (const other of connection.pipeline()) {
      if (other === exchange || (isLost && this.#named.has(other))) break
      this.name(other, error)
    }
    if (!isLost) this.#lostFrom.set(connection, number)
  }

  /** Once the responses before it have been sent. */
  #abortInTurn (exchange: Exchange): void {
    // Each sweep cuts it again.
    if (this.#waiting.has(exchange)) return
    this.#waiting.add(exchange)
    const previous = exchange.previous as Exchange
    previous.response.once('finish', () => {
      // While its connection is open: a closed one does not show whether its client got all.
      this.#inFlight.check(previous)
      exchange.abort()
    })
  }

  /**
   * Cuts everything in flight. A response that only waits for the previous one is sent after that; `cutRest` names it if its handler
   * goes on.
   */
  cutAll (error: FastifyError): void {
    const { exchanges } = this.#inFlight
    // Selected before the first cut, because cutting moves a queued response to the front, where it looks stalled.
    attemptEach(exchanges.filter(({ isWaitingForTurn }) => !isWaitingForTurn), exchange => { this.cut(exchange, error) })
    this.#logOmitted()
    this.cutTasks(error)
  }

  /** Cuts every response that is not sent when connections are about to be closed. */
  cutRest (error: FastifyError): void {
    attemptEach(this.#inFlight.exchanges, exchange => { this.cut(exchange, error) })
  }

  /** Answers everything in flight that has no response yet, for a limited time: the process exits. */
  answerAll (error: FastifyError): void {
    const end = now() + EXIT_FLUSH
    attemptEach(this.#inFlight.exchanges, exchange => { if (!exchange.isCommitted && now() < end) this.cut(exchange, error) })
  }

  /** Names everything in flight, but does not end it. */
  nameAll (error: FastifyError): void {
    attemptEach(this.#inFlight.exchanges, exchange => { this.name(exchange, error) })
    this.#logOmitted()
    this.cutTasks(error)
  }

  #logOmitted (): void {
    const { cutCount } = this.#outcome
    if (cutCount > MOST_NAMED) this.#log.error(`${cutCount} requests were cut; only the first ${MOST_NAMED} have their own line`)
  }

  /** Background work cannot be ended, only named. */
  cutTasks (error: FastifyError): void {
    for (const [task, entry] of this.#tasks.entries()) {
      if (this.#named.has(task)) continue
      this.#named.add(task)
      this.#outcome.addCut(task, entry)
      this.#channels.publish('cut', () => ({ entry, code: error.code }))
      this.#log.error(`Background work cut: ${entry.name}`, { ...entry, code: error.code })
    }
  }

  /**
   * Names a request that is cut, once, in log and report.
   * @param option the timeout, if a route may have its own
   */
  name (exchange: Exchange, error: FastifyError, option?: string): void {
    // Nothing waits for it: it was refused, or its route has opted out, which the sweep or its handler may not have noticed yet.
    if (exchange.hasOptedOut || !this.#inFlight.counts(exchange)) return
    const entry = this.#inFlight.describe(exchange)
    if (this.#phase.current !== 'running') this.#outcome.addCut(exchange, entry)
    if (this.#named.has(exchange)) return
    this.#named.add(exchange)
    this.#channels.publish('cut', () => ({ entry, code: error.code }))
    if (this.#outcome.cutCount > MOST_NAMED) return
    const advice = option === undefined ? '' : ` (${option}). ${entry.route ?? 'A route'} can have its own: config: { gracefulShutdown: { ${option}: … } }`
    this.#log.error(`Request cut: ${error.message}${advice}`, { ...entry, code: error.code })
  }
}
