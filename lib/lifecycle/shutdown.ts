// The shutdown: one sequence for every trigger, run once.

import type { InFlightEntry, Phase, ShutdownReport } from '../../types/index.ts'
import type { Connections } from '../connections/sockets.ts'
import type { WebSockets } from '../connections/upgraded.ts'
import type { Options } from '../options.ts'
import type { Cuts } from '../requests/cut.ts'
import type { Gate } from '../requests/gate.ts'
import type { InFlight } from '../requests/in-flight.ts'
import type { Tasks } from '../requests/tasks.ts'
import type { Timeouts } from '../requests/timeouts.ts'
import type { Callbacks } from './callbacks.ts'
import type { Channels } from './channels.ts'
import type { CloseHooks } from './close-hooks.ts'
import type { SafeLog } from './log.ts'
import type { PhaseClock } from './phase.ts'
import type { Outcome } from './report.ts'
import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { constants } from 'node:os'
import { TIMED_OUT, clearInterval, clearTimeout, now, setInterval, setTimeout, wholeTurn, within } from '../clock.ts'
import { spreadOver } from '../connections/spread.ts'
import { Deferred } from '../deferred.ts'
import { CloseTimeoutError, DrainTimeoutError, ExitError } from '../errors.ts'
import { CLOSE_PART, EXIT_MARGIN, LISTEN_TIMEOUT, PROGRESS_INTERVAL, QUIET, RECONNECT_WINDOW, SETTLE_TIMEOUT, SPREAD_MARGIN, partOf } from '../times.ts'
import { attempt, isError, messageOf, nameOf } from '../values.ts'
import { mayBeDeploy, noteShutdown, type Member } from './process.ts'
import { loggable } from './report.ts'

interface Parts {
  readonly options: Options
  readonly log: SafeLog
  readonly channels: Channels
  readonly phase: PhaseClock
  readonly outcome: Outcome
  readonly inFlight: InFlight
  readonly tasks: Tasks
  readonly connections: Connections
  readonly webSockets: WebSockets
  readonly cuts: Cuts
  readonly gate: Gate
  readonly timeouts: Timeouts
  readonly closeHooks: CloseHooks
  readonly callbacks: Callbacks
  /** Fastify's own close: listeners, and the onClose hooks of all plugins. */
  readonly close: () => Promise<void>
}

/** `close`: `close()`, the instance's or Fastify's own, which tests also call. `other`: a process event, `shutdown()`, `server.close()`. */
type Trigger = 'close' | 'other'

/** The current code runs in hooks or callbacks of these shutdowns, or has been started by them. */
const context = new AsyncLocalStorage<ReadonlySet<Shutdown>>()

export class Shutdown {
  readonly #parts: Parts
  readonly member: Member
  readonly #drained = new Deferred<void>()
  readonly #ended = new Deferred<ShutdownReport>()
  /** Resolves when the shutdown is complete, whatever starts it. */
  readonly ended = this.#ended.promise
  /** Resolved once the onClose hooks have run, if other code has called Fastify's own close. */
  readonly #onCloseDone = new Deferred<void>()
  /** Resolved once other code has closed the listeners. */
  readonly #listenersClosed = new Deferred<void>()
  #closedBy: 'shutdown' | 'other code' | undefined
  /** Whether other code has closed the instance or its server. It goes on when that is done, and decides when the process exits. */
  hasCaller = false
  /** Aborted when the delay and the spread are to end, or to be skipped. */
  readonly #skipDelay = new AbortController()
  /** While long-lived connections are closed one after another. */
  #spread: Promise<void> | undefined
  /** While a shared listener is being closed: until then, its connections are served. */
  #listenerClosing: Promise<void> | undefined
  #trigger: Trigger | undefined
  /** Whether a signal given to `listen()` is aborted. Fastify calls `close()` next, but no code goes on when that resolves. */
  isListenAborted = false
  #reason = ''
  #startedAt = 0
  #stepStartedAt = 0
  readonly #phases = { delaying: 0, draining: 0, closing: 0, callbacks: 0 }
  /** The shutdowns of other instances that its callbacks and hooks wait for. */
  readonly #awaited = new Set<Shutdown>()
  /** This shutdown, and those in which a hook or a callback started it. */
  #inside: ReadonlySet<Shutdown> = new Set([this])
  /** When the report is due, on the clock of now(). */
  #deadline = 0
  /** When drainTimeout is over, on the clock of now(). */
  #drainEnd = 0
  /** Whether the process exits before the end, and whether the log says so. */
  #isExiting = false
  #isExitNoted = false
  #closeError: unknown
  /** Whether a call of `close()` has rejected with it. */
  #isCloseErrorThrown = false
  /** 1 until the report says otherwise. */
  #exitCode: ShutdownReport['exitCode'] = 1

  constructor (parts: Parts) {
    this.#parts = parts
    this.member = { options: parts.options, log: parts.log, shutdown: this }
  }

  /** Starts the shutdown, or joins the one in progress. Resolves when it is complete; never rejects. */
  async start (reason: unknown, trigger: Trigger = 'other'): Promise<ShutdownReport> {
    // From a keyboard, or from PM2, which sends no more requests: there is nothing to delay for.
    if (reason === 'SIGINT') this.skipDelay()
    if (this.#trigger === undefined) {
      // Before the first log line, which may call back into here.
      this.#trigger = trigger
      noteShutdown(this.member)
      this.#ended.resolve(this.#run(reason))
    }
    return await this.ended
  }

  /** The shutdowns in progress that wait for the current code. */
  static #around (): Shutdown[] {
    return [...context.getStore() ?? []].filter(shutdown => !shutdown.isComplete)
  }

  /** Returns whether other code goes on. Hooks and callbacks of a shutdown may shut down other instances; they are waited for anyway. */
  #noteCaller (): boolean {
    const goesOn = Shutdown.#around().length === 0
    // Once the shutdown has ended, it is decided when the process exits.
    if (!this.isComplete) this.hasCaller ||= goesOn
    return goesOn
  }

  /** For users: starts the shutdown if necessary, and waits for its end. */
  async join (reason: unknown): Promise<ShutdownReport> {
    this.#noteCaller()
    void this.start(reason)
    return await this.wait()
  }

  /** For users. Inside this shutdown's callbacks and hooks, it resolves to the report so far: the rest would wait for itself. */
  async wait (): Promise<ShutdownReport> {
    const inside = Shutdown.#around()
    if (inside.some(shutdown => this.#waitsFor(shutdown))) return this.#reportSoFar()
    for (const shutdown of inside) shutdown.#awaited.add(this)
    return await this.ended
  }

  /** Whether this is `other`, or its hooks and callbacks wait for `other`, directly or through further shutdowns. */
  #waitsFor (other: Shutdown): boolean {
    return this === other || [...this.#awaited].some(shutdown => shutdown.#waitsFor(other))
  }

  /** Ends the current delay and the spread, or skips those that have not started. */
  skipDelay (): void {
    this.#skipDelay.abort()
  }

  /**
   * `server.close()` is called, so there is nothing to delay for. Resolves when its callback may be called: if other code has passed
   * one, in which it may exit the process, when the shutdown is complete.
   */
  async serverClosed (isAwaited: boolean): Promise<void> {
    const { connections, phase } = this.#parts
    // Fastify's own close, which waits for this call, has been called: by other code, or before a listen() took effect.
    const isFastifys = phase.current === 'closing' &&
      (this.#closedBy === 'other code' || (this.#closedBy === 'shutdown' && !connections.hasStopped))
    const goesOn = isAwaited && !isFastifys && this.#noteCaller()
    this.skipDelay()
    if (!connections.hasStopped) this.#listenersClosed.resolve()
    void this.start('close')
    if (goesOn) await this.ended
    // Hooks and callbacks wait for the connections, and the drain waits for them.
    else if (isAwaited && !connections.hasStopped) connections.closeIdle()
  }

  /** `fastify.close()`: the same, but it rejects if Fastify's own close does. */
  async close (): Promise<void> {
    const isAwaited = !this.isListenAborted
    this.isListenAborted = false
    if (isAwaited) this.#noteCaller()
    const isLate = this.#isCloseErrorThrown
    void this.start('close', 'close')
    await this.wait()
    const error = this.#closeError
    // As in Fastify, a hook that rejects with undefined fails without an error.
    if (!isAwaited || !error) return
    // As with Fastify alone, the first calls reject, and those after them do not, unless they would wait for a hook that hangs.
    if (isLate && !(error instanceof CloseTimeoutError)) return
    this.#isCloseErrorThrown = true
    throw error
  }

  /** Runs before Fastify closes: starts the shutdown if other code calls Fastify's own close, and waits for the drain. */
  async beforeClose (): Promise<void> {
    if (this.#closedBy === undefined) {
      this.#closedBy = 'other code'
      this.#noteCaller()
      void this.start('close', 'close')
    }
    await this.#drained.promise
    await this.#parts.closeHooks.started()
    // A listen() that was called before takes effect now.
    await this.#listenEnded()
  }

  /** Calls hooks or callbacks so that they know this shutdown, even if other code has called Fastify's own close. */
  async runInside (call: () => Promise<void>): Promise<void> {
    await context.run(this.#inside, call)
  }

  /** Runs after the onClose hooks of other plugins. Fastify's own close, called by other code, then waits for the callbacks. */
  async afterClose (): Promise<void> {
    if (this.#closedBy !== 'other code') return
    this.#onCloseDone.resolve()
    await this.ended
  }

  /** An uncaught error makes the shutdown unclean, but does not stop it. */
  noteError (error: Error): void {
    // The log may be what fails, and each line may cause another error, so errors beyond the limit are not logged.
    if (this.#parts.outcome.addError(error)) this.#parts.log.uncaught(error)
  }

  get isComplete (): boolean {
    return this.#parts.phase.current === 'closed'
  }

  /** The process is about to exit, in any phase: answers what has no response yet. Node sends some of these answers in later turns. */
  answerBeforeExit (): void {
    if (this.isComplete || this.#isExiting) return
    this.#isExiting = true
    const { inFlight, gate, cuts, outcome } = this.#parts
    const error = new ExitError()
    // If the shutdown ends meanwhile, its report has the exit code 1, too.
    outcome.addError(error)
    // What arrives from now on is rejected.
    inFlight.stopCounting()
    cuts.answerAll(error)
    attempt(() => { gate.sendRefusals() })
    attempt(() => { gate.refuseRest() })
  }

  /** Whether a complete response has not been sent yet. */
  get isSending (): boolean {
    return this.#parts.inFlight.unfinished.some(({ isReady }) => isReady)
  }

  /** The process exits. Unless the shutdown is complete, names everything that is still in flight. Returns the exit code. */
  noteExit (): ShutdownReport['exitCode'] {
    this.answerBeforeExit()
    if (!this.isComplete && !this.#isExitNoted) {
      this.#isExitNoted = true
      const { phase, cuts, callbacks, log } = this.#parts
      cuts.nameAll(new ExitError())
      log.error('The process exits before the shutdown is complete', { phase: phase.current, callbacks: callbacks.unfinished })
    }
    return this.#exitCode
  }

  async #run (given: unknown): Promise<ShutdownReport> {
    const { options, log, channels, inFlight, connections, cuts, callbacks, timeouts } = this.#parts
    this.#startedAt = this.#stepStartedAt = now()
    this.#inside = new Set([...Shutdown.#around(), this])
    this.#deadline = this.#startedAt + options.shutdownTimeout - partOf(options.shutdownTimeout, EXIT_MARGIN)
    // Requests that Node or other code has answered, without a hook.
    inFlight.checkAll()
    inFlight.onGone = exchange => {
      const error = connections.closingErrorOf(exchange)
      if (error !== undefined) cuts.name(exchange, error)
    }
    inFlight.completed = 0
    this.#reason = this.#resolveReason(given)
    log.info(Object.hasOwn(constants.signals, this.#reason) ? `${this.#reason} received, shutting down` : `Shutting down: ${this.#reason}`)

    const delay = this.#startDelay()
    // Without a delay, the gate shuts synchronously.
    if (delay !== undefined) {
      await delay
      this.#endStep('delaying')
    }

    // With a shared listener, requests on open connections are still served: a client that got a 503 might have nowhere to go, because
    // with an inherited listener the next process may not run yet.
    if (connections.isListenerShared) this.#listenerClosing = this.#stopSharing()
    else inFlight.stopCounting()
    this.#advance('draining')
    await this.#attempt(async () => { await this.#drain() })
    inFlight.stopCounting()
    callbacks.endDrain()
    // If the drain has ended before the spread, the rest is closed now, before Fastify's close runs the preClose hooks.
    this.skipDelay()
    await this.#spread
    await this.#listenEnded()
    this.#drained.resolve()
    this.#endStep('draining')

    this.#advance('closing')
    await this.runInside(async () => {
      await this.#close()
      // An onClose hook may have tracked work, which may need what callbacks end.
      await this.#endTasks()
      this.#endStep('closing')
      await callbacks.run(this.#reason, this.#deadline)
    })
    // Only then does Node report a rejection that nothing handles, and run what the last hook or callback has left in an immediate.
    await wholeTurn()
    await this.#endTasks()

    timeouts.stop()
    this.#advance('closed')
    this.#endStep('callbacks')
    const report = this.#reportSoFar(this.#stepStartedAt)
    this.#exitCode = report.exitCode
    if (report.exitCode === 0) log.info('Graceful shutdown complete', { report })
    else log.error('Shutdown complete, with errors', { report: loggable(report) })
    channels.publish('report', () => ({ report }))
    await log.flush()
    // Node throws the error of a subscriber later in this turn, and the listener for uncaught errors must still be there.
    await wholeTurn()
    return report
  }

  /**
   * Runs a step of the shutdown. If it fails, because other code has replaced a method of the server or of a connection, the next steps
   * still run.
   */
  async #attempt (step: () => Promise<void> | void): Promise<void> {
    try {
      await step()
    } catch (thrown) {
      const { outcome, log, closeHooks } = this.#parts
      const error = closeHooks.errorOf(thrown)
      this.#closeError = thrown
      if (outcome.addError(error)) log.error('Fastify was not closed cleanly', { err: error })
    }
  }

  async #stopSharing (): Promise<void> {
    await this.#stopListening()
    const limit = partOf(this.#parts.options.drainTimeout, SETTLE_TIMEOUT)
    await this.#attempt(async () => { await this.#stopped(limit, 2 * limit, false) })
  }

  /**
   * Waits until the listeners have stopped, at most until the limit.
   * @param answerLimit for how long a replaced close() may wait for its WebSockets; then these are destroyed
   * @param isDrained as in `destroyUpgraded()`
   */
  async #stopped (answerLimit: number, limit: number, isDrained: boolean): Promise<void> {
    const { connections } = this.#parts
    await connections.whenStopped(answerLimit)
    connections.destroyUpgraded(isDrained)
    await connections.whenStopped(limit - answerLimit)
  }

  /** Closes the listeners. Since Node 24, that also sends GOAWAY on every HTTP/2 session, so the spread comes first. */
  async #stopListening (): Promise<void> {
    await this.#spread
    await this.#listenEnded()
    await this.#attempt(() => { context.run(this.#inside, () => { this.#parts.connections.stopListening() }) })
  }

  /** Fastify throws an uncaught error if its server is closed before a listen() on `localhost` has looked up the second address. */
  async #listenEnded (): Promise<void> {
    const { listenInProgress } = this.#parts.connections
    if (listenInProgress !== undefined) await within(partOf(this.#deadline - now(), LISTEN_TIMEOUT), listenInProgress)
  }

  #advance (phase: Exclude<Phase, 'running'>): void {
    this.#parts.phase.advance(phase)
    this.#parts.channels.publish('phase', () => ({ phase, reason: this.#reason }))
  }

  /** Notes how long a step has taken; the next one starts. */
  #endStep (step: keyof ShutdownReport['phases']): void {
    const end = now()
    this.#phases[step] = Math.round(end - this.#stepStartedAt)
    this.#stepStartedAt = end
  }

  /** The reason may be any value. An error also makes the shutdown unclean. */
  #resolveReason (given: unknown): string {
    const reason = given ?? 'shutdown'
    if (!isError(reason)) return nameOf(reason)
    this.#parts.outcome.addError(reason)
    this.#parts.log.error('Shutting down because of an error', { err: reason })
    return messageOf(reason)
  }

  #reportSoFar (end = now()): ShutdownReport {
    const { outcome, inFlight, gate, callbacks } = this.#parts
    return outcome.report({
      reason: this.#reason,
      phases: { ...this.#phases },
      time: Math.round(end - this.#startedAt),
      completed: inFlight.completed,
      refused: gate.refused,
      callbacks: [...callbacks.reports]
    })
  }

  /** Hooks and callbacks may have tracked work since the drain. */
  async #endTasks (): Promise<void> {
    const { options: { drainTimeout }, cuts } = this.#parts
    await within(Math.min(this.#drainEnd, this.#deadline) - now(), this.#tasksEnded())
    cuts.cutTasks(new DrainTimeoutError(drainTimeout))
  }

  /** Starts the callbacks for the start of the shutdown; the drain waits for them. Resolves when all have ended. */
  #startCallbacks (delay: number): Promise<unknown> {
    const { options: { drainTimeout }, callbacks, tasks } = this.#parts
    return context.run(this.#inside, () => {
      const started = callbacks.start(this.#reason, delay + drainTimeout)
      for (const [name, work] of started) void tasks.track(work, name)
      return Promise.all(started.map(([, work]) => work))
    })
  }

  /** Not ready, but still serving, until the promise resolves; undefined without a delay. */
  #startDelay (): Promise<void> | undefined {
    const { options: { shutdownDelay: { max, quiet } }, log, connections } = this.#parts
    const isServing = connections.isListening && !this.#skipDelay.signal.aborted
    const delays = max > 0 && isServing
    // Before the phase changes, so that a listener of `signal` is too late to register one, with a delay or without.
    const started = this.#startCallbacks(delays ? max : 0)
    // Before other code learns of the delay, because that may skip it at once.
    const skipped = once(this.#skipDelay.signal, 'abort')
    void this.#attempt(() => { connections.disableKeepAlive() })
    this.#startSpread(isServing)
    if (!delays) return undefined
    this.#advance('delaying')
    const until = quiet < max ? `until no request has arrived for ${quiet}ms, at most ` : 'for '
    log.info(`Not ready any more, still serving ${until}${max}ms`)
    return this.#delay(skipped, started)
  }

  /** Starts to close long-lived connections, evenly over `spread`. The drain closes those that this does not reach. */
  #startSpread (isServing: boolean): void {
    const { options: { spread }, log, inFlight, connections, webSockets } = this.#parts
    const open = () => [...connections.longLived(), ...webSockets.longLived(), ...inFlight.longLived()]
    const count = isServing && spread > 0 ? open().length : 0
    if (count === 0) return
    log.info(`Ending long-lived connections over ${spread}ms: ${count} are open`)
    const over = () => { this.#spread = undefined }
    // If a replaced close() of a WebSocket throws, the drain and the preClose hooks, which report that, end the rest.
    this.#spread = spreadOver(spread, open, this.#skipDelay.signal).then(over, over)
  }

  /** Waits until the delay is over or skipped. */
  async #delay (skipped: Promise<unknown>, started: Promise<unknown>): Promise<void> {
    const { options: { shutdownDelay: { max, quiet } }, gate, connections } = this.#parts
    const start = now()
    // Callbacks for the start of the shutdown have been told that they may use all of it.
    await within(max, Promise.race([skipped, started]))
    const left = () => Math.min(start + max, Math.max(start, gate.lastAdmitted) + quiet) - now()
    do {
      await within(left(), skipped)
      // Opened while the event loop was blocked.
      await connections.acceptBacklog()
    } while (!this.#skipDelay.signal.aborted && left() > 0)
  }

  /** Runs the preClose hooks, after the spread: that of @fastify/websocket closes all WebSockets. */
  async #runPreClose (): Promise<void> {
    // Without a spread, they start at once, so that they see every request that is served as draining starts.
    if (this.#spread !== undefined) await this.#spread
    const { options: { drainTimeout }, inFlight, webSockets, closeHooks } = this.#parts
    // While the instance starts, nothing is open, and hooks may need what is not there yet: Fastify's own close waits until it has started.
    if (!closeHooks.hasStarted && inFlight.arrived === 0) return
    await this.#attempt(() => { webSockets.goAway() })
    await closeHooks.preClose()
    await this.#attempt(async () => { await webSockets.closed(partOf(drainTimeout, SETTLE_TIMEOUT)) })
  }

  /** Waits until nothing is in flight and the preClose hooks have run, and then for a quiet moment. Cuts the rest at drainTimeout. */
  async #drain (): Promise<void> {
    const { options: { drainTimeout }, log, inFlight, tasks, connections, cuts } = this.#parts
    const start = now()
    const end = this.#drainEnd = start + drainTimeout
    const preClosed = this.#runPreClose()
    do {
      if (!await this.#becomesIdle(end, preClosed)) {
        cuts.cutAll(new DrainTimeoutError(drainTimeout))
        return
      }
      log.info(`All requests drained in ${((now() - start) / 1000).toFixed(1)}s`)
      await connections.whenRead(end)
      if (this.#trigger !== 'close' || mayBeDeploy()) await this.#quiet(end)
      // Meanwhile, open connections may have sent requests that are served, and other code may have tracked work.
    } while (inFlight.count + tasks.count > 0)
  }

  /** Ends long-lived connections, and waits until nothing is in flight. False if that takes too long. */
  async #becomesIdle (end: number, preClosed: Promise<void>): Promise<boolean> {
    const { options: { drainTimeout }, log, outcome, inFlight, tasks, closeHooks } = this.#parts
    inFlight.onEnd = tasks.onEnd = (what: object, entry: InFlightEntry) => {
      outcome.addDrained(what, { ...entry, after: Math.round(now() - this.#startedAt) })
    }
    this.#endLongLived()
    const others = () => this.#spread !== undefined ? 'long-lived connections' : closeHooks.isPreClosing ? 'the preClose hooks' : ''
    const tell = () => { log.info(`Waiting for ${countOf(inFlight.count, tasks.count, others())} to complete...`) }
    if (inFlight.count + tasks.count > 0) tell()
    const progress = setInterval(() => {
      this.#endLongLived()
      tell()
      for (const entry of [...inFlight.list(), ...tasks.list()]) log.debug(`Waiting for ${nameOfEntry(entry)}`, entry)
    }, PROGRESS_INTERVAL)
    // Ends the spread some time before the drain timeout, so that what it has not reached can still end in time.
    const spreadEnd = setTimeout(() => { this.skipDelay() }, Math.max(0, end - partOf(drainTimeout, SPREAD_MARGIN) - now()))
    const result = await within(end - now(), this.#idle(preClosed))
    clearTimeout(spreadEnd)
    clearInterval(progress)
    inFlight.onEnd = tasks.onEnd = undefined
    return result !== TIMED_OUT
  }

  /** Ends what is open and would not end by itself, unless the spread does. */
  #endLongLived (): void {
    const { connections, inFlight } = this.#parts
    inFlight.checkAll()
    if (this.#spread !== undefined) return
    for (const [, end] of [...connections.longLived(), ...inFlight.longLived()]) end()
  }

  /** Handlers may track work while they run, and work may start requests. */
  async #idle (preClosed: Promise<void>): Promise<void> {
    const { inFlight, tasks, connections } = this.#parts
    await this.#spread
    await this.#listenerClosing
    // Not for a preClose hook that has closed the listener: it may wait until all connections are closed.
    if (connections.isOpenedByFastify) await Promise.race([preClosed, this.#listenersClosed.promise])
    while (inFlight.count + tasks.count > 0) {
      await inFlight.idle()
      await this.#tasksEnded()
    }
  }

  /** What has ended may lead to the next one, in the next turn. */
  async #tasksEnded (): Promise<void> {
    const { tasks } = this.#parts
    while (tasks.count > 0) {
      await tasks.idle()
      await wholeTurn()
    }
  }

  /** Waits until, for a short time, no request has arrived, no response has been sent, and slow clients have had their time. */
  async #quiet (drainEnd: number): Promise<void> {
    const { connections } = this.#parts
    // The drain may come here again and again, but not later than this after drainTimeout.
    const end = Math.min(now(), drainEnd) + QUIET.most
    while (connections.mayReceive) {
      const quiet = Math.min(connections.lastActivity + QUIET.milliseconds, end)
      const left = Math.max(quiet, Math.min(connections.unusedUntil, drainEnd)) - now()
      if (left <= 0) return
      // No event tells that a connection is in use.
      await within(Math.min(left, QUIET.milliseconds), connections.gone())
    }
  }

  /** Closes connections and Fastify. If there are callbacks, half of the time left is kept for them. */
  async #close (): Promise<void> {
    const { callbacks, closeHooks } = this.#parts
    const left = Math.max(0, this.#deadline - now())
    const limit = callbacks.hasAnyForEnd ? left / 2 : left
    await this.#attempt(async () => {
      if (await within(limit, this.#closeAll(limit)) === TIMED_OUT) throw new CloseTimeoutError(Math.round(limit), closeHooks.hanging)
    })
  }

  async #closeAll (limit: number): Promise<void> {
    const { connections, closeHooks, close } = this.#parts
    const settleTimeout = partOf(limit, SETTLE_TIMEOUT)
    const start = now()
    const abandonAfter = limit * CLOSE_PART
    await this.#attempt(async () => { await this.#closeConnections(settleTimeout, abandonAfter) })
    this.#closedBy ??= 'shutdown'
    const closed = this.#closedBy === 'shutdown' ? close() : this.#onCloseDone.promise
    // Hooks have asked upgraded sockets to close by now; Fastify waits for those that are still open.
    if (await within(Math.min(settleTimeout, start + abandonAfter - now()), closed) === TIMED_OUT) connections.destroy()
    if (await within(start + abandonAfter - now(), closed) === TIMED_OUT && closeHooks.isPreClosing) {
      this.#reportAbandoned('A preClose hook', abandonAfter, await closeHooks.abandonPreClose())
    }
    await closed
  }

  /** What does not end is abandoned, because otherwise no onClose hook would run. */
  #reportAbandoned (what: string, time: number, name: string): void {
    const { log, outcome } = this.#parts
    const error = new CloseTimeoutError(Math.round(time), name)
    outcome.addError(error)
    log.error(`${what} is not waited for any longer`, { err: error })
  }

  async #closeConnections (limit: number, abandonAfter: number): Promise<void> {
    const { options, connections, gate, cuts } = this.#parts
    const error = new DrainTimeoutError(options.drainTimeout)
    const start = now()
    gate.deferRefusals()
    // The rest of the time is for sending the refusals.
    await connections.acceptBacklog(start + limit / 2, RECONNECT_WINDOW)
    // In the same iteration of the event loop: closing resets the connections that have not been accepted.
    await this.#stopListening()
    // A replaced close() may need a moment, even if it waits for nothing.
    await connections.whenStopped(RECONNECT_WINDOW)
    gate.sendRefusals()
    await this.#stopped(limit, start + abandonAfter - now(), true)
    if (connections.isStopping) {
      this.#reportAbandoned('The server', abandonAfter, 'the replaced close() of the server')
      connections.closeForcibly()
    }
    if (connections.isAnyOpen) {
      await connections.settle(Math.max(start + limit, now() + limit / 2))
      // First, because ready answers may wait behind them in a pipeline.
      gate.refuseRest()
      await connections.flush()
      cuts.cutRest(error)
      // What has arrived meanwhile.
      gate.refuseRest()
    }
    connections.closeAll()
    // After a drain that has timed out, onResponse hooks of responses that have been sent since then may still run.
    cuts.cutRest(error)
  }
}

function countOf (requests: number, tasks: number, others: string): string {
  const parts = []
  if (requests > 0 || (tasks === 0 && others === '')) parts.push(`${requests} in-flight request${requests === 1 ? '' : 's'}`)
  if (tasks > 0) parts.push(`${tasks} background task${tasks === 1 ? '' : 's'}`)
  if (others !== '') parts.push(others)
  return parts.join(' and ')
}

function nameOfEntry (entry: InFlightEntry): string {
  return entry.kind === 'task'
    ? `${entry.name} (${entry.age}ms)`
    : `${entry.method} ${entry.route ?? ''} (${entry.reqId ?? 'held by a hook'}, ${entry.age}ms)`
}
