// The way out: one function, for whoever asks, run once.

import type { FastifyBaseLogger } from 'fastify'
import type { InFlightEntry, ShutdownReport } from '../types/index.ts'
import type { Callbacks } from './callbacks.ts'
import type { Connections } from './connections.ts'
import type { Cuts } from './cuts.ts'
import type { Gate } from './gate.ts'
import type { InFlight } from './in-flight.ts'
import type { Options } from './options.ts'
import type { PhaseClock } from './phase.ts'
import type { WebSockets } from './web-sockets.ts'
import { once } from 'node:events'
import { CloseTimeoutError, DrainTimeoutError, ExitError, toError } from './errors.ts'
import { TIMED_OUT, within } from './within.ts'

/** How often the log says who is waited for, in milliseconds. */
const TELL_EVERY = 1_000
/** The steps are done so much before shutdownTimeout, so that the report is out when the forced exit comes. */
const MARGIN = { part: 1 / 20, most: 250 }
/**
 * A client that has just been answered over keep-alive sends its next request at once. It is to read a 503, not a
 * reset: so nobody must have asked for so long before connections are closed, within a limit for those who go on asking.
 */
export const QUIET = { milliseconds: 100, most: 200 }
/** How long connections have to be read to their end or to say goodbye, in milliseconds and as a part of what is left. */
const GOODBYE = { part: 1 / 4, most: 1_000 }

export interface Parts {
  readonly options: Options
  readonly log: FastifyBaseLogger
  readonly phase: PhaseClock
  readonly inFlight: InFlight
  readonly connections: Connections
  readonly webSockets: WebSockets
  readonly cuts: Cuts
  readonly gate: Gate
  readonly callbacks: Callbacks
  readonly isClusterWorker: boolean
  /** Fastify's own close: its preClose hooks, its listeners, the onClose hooks of all plugins. */
  readonly close: () => Promise<void>
  /** Lets go of what lives only while the instance listens. */
  readonly release: () => void
}

export class Shutdown {
  readonly #parts: Parts
  readonly #drained = new Deferred<void>()
  readonly #report = new Deferred<ShutdownReport>()
  readonly #errors: Error[] = []
  /** Aborts as somebody asks for no (more) delay. */
  readonly #skipDelay = new AbortController()
  #closeError: Error | undefined
  #exitCode: ShutdownReport['exitCode'] | undefined

  constructor (parts: Parts) {
    this.#parts = parts
  }

  /** Starts the shutdown, or joins the one under way. It never rejects. */
  async start (reason: string): Promise<ShutdownReport> {
    if (this.#parts.phase.current === 'running') this.#report.resolve(this.#run(reason))
    return await this.#report.promise
  }

  /** Waits for a shutdown, whoever starts it. */
  async wait (): Promise<ShutdownReport> {
    return await this.#report.promise
  }

  /** The delay under way ends now; one still to come is left out. */
  skipDelay (): void {
    this.#skipDelay.abort()
  }

  /** `fastify.close()`: the same, and it rejects where Fastify's own close does. */
  async close (): Promise<void> {
    await this.start('close')
    if (this.#closeError !== undefined) throw this.#closeError
  }

  /** Starts the shutdown where nobody has, and waits until nothing is in flight any more. */
  async drained (): Promise<void> {
    void this.start('close')
    await this.#drained.promise
  }

  /** An error that nobody caught: the shutdown goes on, and is not clean. */
  fail (error: Error): void {
    this.#errors.push(error)
    this.#parts.log.error({ err: error }, 'Uncaught error')
  }

  /** The process exits. If the shutdown still runs, nobody is lost without a word. */
  exit (): ShutdownReport['exitCode'] {
    const { phase, cuts, callbacks, log } = this.#parts
    if (this.#exitCode === undefined) {
      cuts.nameAll(new ExitError())
      log.error({ phase: phase.current, callbacks: callbacks.unfinished }, 'The process exits before the shutdown is complete')
    }
    return this.#exitCode ?? 1
  }

  async #run (reason: string): Promise<ShutdownReport> {
    const { options, log, phase, inFlight, connections, cuts, gate, callbacks, isClusterWorker } = this.#parts
    const { shutdownTimeout, shutdownDelay } = options
    const watch = new Stopwatch()
    const deadline = watch.start + shutdownTimeout - Math.min(MARGIN.most, shutdownTimeout * MARGIN.part)
    const finishedBefore = inFlight.finished
    log.info(reason.startsWith('SIG') ? `${reason} received, shutting down` : `Shutting down: ${reason}`)

    const delays = shutdownDelay > 0 && connections.listening && !this.#skipDelay.signal.aborted
    connections.lastCall()
    // The primary of a cluster then gives new connections to the other workers, whatever they are told by balancers.
    if (isClusterWorker) connections.stopListening()
    if (delays) {
      phase.advance('delaying')
      log.info(`Not ready any more, serving on for ${shutdownDelay}ms`)
      await within(shutdownDelay, once(this.#skipDelay.signal, 'abort'))
    }
    const delaying = watch.lap()

    phase.advance('draining')
    await this.#drain()
    const draining = watch.lap()
    this.#drained.resolve()

    phase.advance('closing')
    await this.#close(deadline)
    const closing = watch.lap()

    const callbackReports = await callbacks.run(reason, deadline, log)
    this.#parts.release()
    phase.advance('closed')
    const clean = cuts.list.length === 0 && this.#errors.length === 0 && callbackReports.every(({ error }) => error === undefined)
    this.#exitCode = clean ? 0 : 1
    const report: ShutdownReport = {
      reason,
      phases: { delaying, draining, closing, callbacks: watch.lap() },
      time: watch.total(),
      completed: inFlight.finished - finishedBefore,
      refused: gate.refused,
      cut: cuts.list,
      callbacks: callbackReports,
      errors: [...this.#errors],
      exitCode: this.#exitCode
    }
    if (clean) log.info({ report }, 'Graceful shutdown complete')
    else log.error({ report: loggable(report) }, 'Shutdown complete, but not everything went well')
    return report
  }

  async #drain (): Promise<void> {
    const { options: { drainTimeout }, log, inFlight, connections, cuts } = this.#parts
    const start = performance.now()
    connections.closeIdle()
    const tell = () => { log.info(`Waiting for ${whom(inFlight.count, inFlight.tasks)} to complete...`) }
    if (inFlight.count + inFlight.tasks > 0) tell()
    const teller = setInterval(() => {
      tell()
      for (const entry of inFlight.list()) log.debug(entry, `Waiting for ${who(entry)}`)
    }, TELL_EVERY)
    const drained = await inFlight.idle(drainTimeout)
    clearInterval(teller)
    if (drained) {
      log.info(`All requests drained in ${((performance.now() - start) / 1000).toFixed(1)}s`)
      await this.#quiet()
    } else {
      cuts.cutAll(new DrainTimeoutError(drainTimeout))
    }
  }

  /** Waits until nobody who is connected has asked, or been answered so that he may ask again, for a while. */
  async #quiet (): Promise<void> {
    const { connections } = this.#parts
    const end = performance.now() + QUIET.most
    while (connections.anyOpen) {
      const left = Math.min(connections.lastHeard() + QUIET.milliseconds, end) - performance.now()
      if (left <= 0) return
      await within(left, connections.gone())
    }
  }

  /** Closes connections and Fastify. Callbacks keep half of the time that is left. */
  async #close (deadline: number): Promise<void> {
    const limit = Math.max(0, deadline - performance.now()) / 2
    try {
      if (await within(limit, this.#closeAll(limit)) === TIMED_OUT) throw new CloseTimeoutError(Math.round(limit))
    } catch (thrown) {
      this.#closeError = toError(thrown)
      this.#errors.push(this.#closeError)
      this.#parts.log.error({ err: this.#closeError }, 'Fastify was not closed cleanly')
    }
  }

  async #closeAll (limit: number): Promise<void> {
    const { connections, webSockets, gate, close } = this.#parts
    const goodbye = Math.min(GOODBYE.most, limit * GOODBYE.part)
    gate.hold()
    await connections.acceptWaiting()
    connections.stopListening()
    gate.release()
    if (connections.anyOpen) {
      await connections.close(goodbye)
      webSockets.goAway()
    }
    const closed = close()
    // Hooks have asked upgraded sockets to go by now; Fastify waits for those that have not gone.
    if (await within(goodbye, closed) === TIMED_OUT) connections.destroy()
    await closed
  }
}

/** JSON has nothing to say of an Error; each was logged with its stack when it came. */
function loggable (report: ShutdownReport): object {
  const callbacks = report.callbacks.map(callback => ({ ...callback, error: callback.error?.message }))
  return { ...report, callbacks, errors: report.errors.map(({ message }) => message) }
}

class Deferred<T> {
  resolve!: (value: T | PromiseLike<T>) => void
  readonly promise = new Promise<T>(resolve => { this.resolve = resolve })
}

/** Whole milliseconds of each step. */
class Stopwatch {
  readonly start = performance.now()
  #last = this.start

  lap (): number {
    const now = performance.now()
    const time = Math.round(now - this.#last)
    this.#last = now
    return time
  }

  total (): number {
    return Math.round(performance.now() - this.start)
  }
}

function whom (requests: number, tasks: number): string {
  const parts = []
  if (requests > 0 || tasks === 0) parts.push(`${requests} in-flight request${requests === 1 ? '' : 's'}`)
  if (tasks > 0) parts.push(`${tasks} background task${tasks === 1 ? '' : 's'}`)
  return parts.join(' and ')
}

function who (entry: InFlightEntry): string {
  return entry.kind === 'task'
    ? `${entry.name} (${entry.age}ms)`
    : `${entry.method} ${entry.url} (${entry.requestId}, ${entry.age}ms)`
}
