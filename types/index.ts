// The public types, and what the plugin adds to Fastify's own.

import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'

/** How far a shutdown is. `.phase` says `closing` while callbacks run, too. */
export type Phase = 'running' | 'delaying' | 'draining' | 'closing' | 'closed'

/** A signal that close-with-grace listens to. */
export type ShutdownSignal =
  | 'SIGHUP' | 'SIGINT' | 'SIGQUIT' | 'SIGILL' | 'SIGTRAP' | 'SIGABRT'
  | 'SIGBUS' | 'SIGFPE' | 'SIGSEGV' | 'SIGUSR2' | 'SIGTERM'

/** What close-with-grace can listen to: signals, uncaught errors, and an event loop that has become empty. */
export type ProcessEvent = ShutdownSignal | 'uncaughtException' | 'unhandledRejection' | 'beforeExit'

/**
 * A check behind a probe. It fails when it returns or resolves to `false`, throws, rejects,
 * or takes longer than the probe's `checkTimeout`.
 */
export type ProbeCheck = () => unknown

/** A probe's route. */
export interface ProbeOptions {
  /** Path of the route, with a leading slash. Default: `/health`, `/ready`. */
  path?: string
  /** Named checks, run side by side on each probe; one that fails makes the probe answer 503. Default: none. */
  checks?: Record<string, ProbeCheck>
  /** Milliseconds that the checks of one probe may take. Default: 1000. */
  checkTimeout?: number
  /** Log level of the route; `silent` keeps probes out of the request log. Default: the instance's. */
  logLevel?: string
}

/** Options of the plugin. All times are in milliseconds. */
export interface GracefulOptions {
  /** From the start of the shutdown to the forced exit, all steps included. Default: 30000. */
  shutdownTimeout?: number
  /** How long the shutdown waits for requests in flight. Default: 25000. */
  drainTimeout?: number
  /**
   * How long the instance still serves requests although its readiness probe already fails, so that load balancers send
   * their requests elsewhere first. Skipped if the instance does not listen. Default: 0.
   */
  shutdownDelay?: number
  /**
   * How long a client may take to send a whole request; then it is answered with 408. `false` turns it off.
   * Sets Node's `server.requestTimeout` and `server.headersTimeout`.
   * Default: 10000, or the `requestTimeout` given to Fastify.
   */
  readTimeout?: number | false
  /**
   * A response that makes no progress for this long is cut: its client gets a 503 if no header has been sent yet, else
   * its connection is closed. `false` turns it off. A route may have its own in `config.gracefulShutdown.writeTimeout`.
   * Default: 10000; off if `connectionTimeout` was given to Fastify, which then acts instead.
   */
  writeTimeout?: number | false
  /**
   * How long an idle keep-alive connection stays open; `false` turns it off.
   * Sets Node's `server.keepAliveTimeout`, and the timeout of HTTP/2 sessions.
   * Default: 120000, or the `keepAliveTimeout` (HTTP/2: `http2SessionTimeout`) given to Fastify.
   */
  idleTimeout?: number | false
  /**
   * Which process events start the shutdown: `true` for all that close-with-grace listens to (signals, uncaught errors), a
   * list for these only, `false` for none. With any, a worker of node:cluster also shuts down when its primary exits or
   * disconnects it. Default: true.
   */
  signals?: boolean | readonly ProcessEvent[]
  /** The liveness probe: a path, an object, or `false` for none. Default: `/health`. */
  health?: string | ProbeOptions | false
  /** The readiness probe: a path, an object, or `false` for none. Default: `/ready`. */
  ready?: string | ProbeOptions | false
}

/**
 * A route's own settings, in `config.gracefulShutdown`. With `false`, its requests are neither rejected nor waited for, and
 * `writeTimeout` does not act on them.
 */
export type GracefulRouteOptions = false | {
  /** The route's own {@link GracefulOptions.writeTimeout}; `false` for a stream that may pause for any time. */
  writeTimeout?: number | false
}

/** What a shutdown callback is given. */
export interface ShutdownContext {
  /** Aborts when this callback has run out of time. */
  signal: AbortSignal
  /** When this callback runs out of time, in milliseconds since the epoch, as `Date.now()` counts. */
  deadline: number
  /** What started the shutdown; see {@link ShutdownReport.reason}. */
  reason: string
  /** A logger that carries the callback's name. */
  log: FastifyBaseLogger
}

/** Cleans up after nothing is in flight any more and all connections are closed. May return a promise. */
export type ShutdownCallback = (context: ShutdownContext) => unknown

/** Options of a shutdown callback. */
export interface CallbackOptions {
  /** Name in log and report. Default: the function's name, or its place in the order. */
  name?: string
  /**
   * Milliseconds that it may take. It may be shortened so that each later callback keeps half of its fair share.
   * Default: a fair share of the time that is left, the same for each callback that is still to run.
   */
  timeout?: number
}

/** A request in flight. */
export interface RequestInFlight {
  kind: 'request'
  method: string
  /** The route's pattern; undefined where no route matched. */
  route: string | undefined
  /**
   * The URL as the logger's `req` serializer shows it; undefined if that shows none. Without its query if no serializer is
   * known: without a logger, with a logger other than pino, and for a request that a hook which was registered ahead of the
   * plugin still holds.
   */
  url: string | undefined
  /** Fastify's request id; undefined for a request that a hook which was registered ahead of the plugin still holds. */
  reqId: string | undefined
  /** Milliseconds since it arrived. */
  age: number
}

/** Background work in flight, from {@link GracefulShutdown.track}. */
export interface TaskInFlight {
  kind: 'task'
  name: string
  /** Milliseconds since `track()` was called. */
  age: number
}

/** What a shutdown waits for. */
export type InFlightEntry = RequestInFlight | TaskInFlight

/** How a shutdown callback went. */
export interface CallbackReport {
  name: string
  /** Milliseconds that it took. */
  time: number
  /** What it threw, or that it ran out of time. */
  error?: Error
}

/** What happened in a shutdown. */
export interface ShutdownReport {
  /**
   * What started it: a signal's name, `uncaughtException`, `unhandledRejection`, `beforeExit`, `disconnect` (the primary of
   * a cluster has exited or disconnected the worker), `close`, or what `shutdown()` was given.
   */
  reason: string
  /** Milliseconds that each step took. */
  phases: { delaying: number, draining: number, closing: number, callbacks: number }
  /** Milliseconds from start to end. */
  time: number
  /** Requests that were answered in full after the shutdown had started. */
  completed: number
  /** Requests that were rejected with a 503. */
  refused: number
  /** The requests and the background work that were cut, by a timeout or at the end of the drain. */
  cut: InFlightEntry[]
  /** The callbacks, in the order in which they ran. */
  callbacks: CallbackReport[]
  /**
   * What else went wrong: uncaught errors; an error given to `shutdown()`; an `onClose` hook that failed or did not end;
   * background work that failed during the shutdown. At most 20.
   */
  errors: Error[]
  /** How many errors there were beyond the 20 that `errors` keeps. */
  omittedErrors: number
  /** 0 if nothing was cut and nothing failed, else 1. */
  exitCode: 0 | 1
}

/** The controller, `fastify.gracefulShutdown`. */
export interface GracefulShutdown {
  /** How far the shutdown is. */
  readonly phase: Phase
  /** Aborts when the shutdown starts: end streams, stop polling. */
  readonly signal: AbortSignal
  /**
   * Registers a cleanup callback. Callbacks run one after another, in the order registered.
   * Throws `FST_ERR_GRACEFUL_CALLBACK_INVALID`, or `FST_ERR_GRACEFUL_CALLBACK_TOO_LATE` if callbacks are running already.
   */
  onShutdown (callback: ShutdownCallback, options?: CallbackOptions): void
  /**
   * Shuts down in the same way as `fastify.close()`, and resolves to the report. It never rejects and does not end the
   * process. Called again, it joins the shutdown under way. Called inside a shutdown callback or an `onClose` hook, it
   * resolves at once to the report so far, because the rest would wait for itself.
   * @param reason what report and log give as the reason; an Error is also added to the report's errors. Default: `shutdown`.
   */
  shutdown (reason?: unknown): Promise<ShutdownReport>
  /**
   * Ends the `shutdownDelay` that is under way, or skips the one to come: for code that knows that no load balancer sends
   * requests any more.
   */
  skipDelay (): void
  /** Waits for the end of a shutdown, whatever starts it. It never rejects. */
  wait (): Promise<ShutdownReport>
  /** What is in flight: requests, oldest first, then background work. */
  inFlight (): InFlightEntry[]
  /**
   * Makes the drain wait for background work, too. If it fails, the error is logged; during a shutdown, it is also added to
   * the report's errors. A lazy thenable, such as a query builder, is not started: await it yourself.
   * Throws `FST_ERR_GRACEFUL_TRACK_INVALID` if it is not a promise.
   * @param name its name in `inFlight()`, log and report. Default: `task`.
   * @returns the same promise
   */
  track<T extends PromiseLike<unknown>> (promise: T, name?: unknown): T
  /** Takes this instance out of rotation (`false`), or back in (`true`), without shutting down. */
  setReady (ready: boolean): void
  /** The liveness probe's handler, to mount elsewhere. */
  readonly healthHandler: ProbeHandler
  /** The readiness probe's handler, to mount elsewhere. */
  readonly readyHandler: ProbeHandler
}

/** A probe's route handler, for the same instance or another one. */
export type ProbeHandler = (request: FastifyRequest, reply: FastifyReply) => Promise<FastifyReply>

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether a shutdown has started. */
    readonly isShuttingDown: boolean
    /** How many requests are in flight; probes and rejected requests do not count. Constant time. */
    readonly inFlightRequests: number
    /** The same as `gracefulShutdown.onShutdown`. */
    registerShutdownCallback (callback: ShutdownCallback, options?: CallbackOptions): void
    /** The controller of the graceful shutdown. */
    readonly gracefulShutdown: GracefulShutdown
  }

  interface FastifyContextConfig {
    /** This route's own settings for the graceful shutdown. */
    gracefulShutdown?: GracefulRouteOptions
  }
}
