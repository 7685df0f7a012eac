// The public types, and what the plugin adds to Fastify's own.

import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'

/** Where a shutdown stands. `.phase` says `closing` while callbacks run, too. */
export type Phase = 'running' | 'delaying' | 'draining' | 'closing' | 'closed'

/** A signal that close-with-grace listens to. */
export type ShutdownSignal =
  | 'SIGHUP' | 'SIGINT' | 'SIGQUIT' | 'SIGILL' | 'SIGTRAP' | 'SIGABRT'
  | 'SIGBUS' | 'SIGFPE' | 'SIGSEGV' | 'SIGUSR2' | 'SIGTERM'

/** All that close-with-grace listens to: signals, errors nobody caught, and an event loop that ran empty. */
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
  /** From the start of the shutdown to the forced exit, everything included. Default: 30000. */
  shutdownTimeout?: number
  /** How long requests in flight are waited for. Default: 25000. */
  drainTimeout?: number
  /**
   * How long to serve on while already not ready, so that load balancers look away first.
   * Skipped where the instance does not listen. Default: 0.
   */
  shutdownDelay?: number
  /**
   * Time for a client to send a whole request, after which it is answered 408; `false` turns it off.
   * Sets Node's `server.requestTimeout` and `server.headersTimeout`.
   * Default: 10000, or the `requestTimeout` given to Fastify.
   */
  readTimeout?: number | false
  /**
   * A response that makes no progress for so long is cut: its client reads a 503 where no header has gone
   * out yet; `false` turns it off. A route has its own in `config.gracefulShutdown.writeTimeout`.
   * Default: 10000; off where `connectionTimeout` was given to Fastify, which then acts instead.
   */
  writeTimeout?: number | false
  /**
   * How long an idle keep-alive connection stays open; `false` turns it off.
   * Sets Node's `server.keepAliveTimeout`, and the timeout of HTTP/2 sessions.
   * Default: 120000, or the `keepAliveTimeout` (HTTP/2: `http2SessionTimeout`) given to Fastify.
   */
  idleTimeout?: number | false
  /**
   * Which process events start the shutdown: `true` for all that close-with-grace listens to (signals,
   * uncaught errors), a list for just these, `false` for none. With any, a worker of node:cluster also shuts
   * down as its primary goes or disconnects it. Default: true.
   */
  signals?: boolean | readonly ProcessEvent[]
  /** The liveness probe: a path, an object, or `false` for none. Default: `/health`. */
  health?: string | ProbeOptions | false
  /** The readiness probe: a path, an object, or `false` for none. Default: `/ready`. */
  ready?: string | ProbeOptions | false
}

/** A route's own settings, under `config.gracefulShutdown`; `false` leaves it neither gated nor counted. */
export type GracefulRouteOptions = false | {
  /** The route's own {@link GracefulOptions.writeTimeout}; `false` for a stream that may pause at will. */
  writeTimeout?: number | false
}

/** What a shutdown callback is given. */
export interface ShutdownContext {
  /** Aborts when this callback's time is up. */
  signal: AbortSignal
  /** When this callback's time is up, in milliseconds since the epoch, as `Date.now()` counts. */
  deadline: number
  /** What started the shutdown, as {@link ShutdownReport.reason}. */
  reason: string
  /** A logger that carries the callback's name. */
  log: FastifyBaseLogger
}

/** Cleans up once nothing is in flight and all connections are closed. May return a promise. */
export type ShutdownCallback = (context: ShutdownContext) => unknown

/** Options of a shutdown callback. */
export interface CallbackOptions {
  /** Name in log and report. Default: the function's name, or its place in the order. */
  name?: string
  /**
   * Milliseconds it may take. It is honoured as far as each later callback keeps half of its fair share.
   * Default: a fair share of the time that is left, the same for each callback still to run.
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
   * The URL as the logger's `req` serializer shows it; undefined if that shows none. Without its query for a request that
   * a hook which was registered ahead of the plugin still holds.
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
  /** Milliseconds since it was handed over. */
  age: number
}

/** Somebody whom a shutdown waits for. */
export type InFlightEntry = RequestInFlight | TaskInFlight

/** How a shutdown callback went. */
export interface CallbackReport {
  name: string
  /** Milliseconds it took. */
  time: number
  /** What it threw, or that its time was up. */
  error?: Error
}

/** What happened in a shutdown. */
export interface ShutdownReport {
  /**
   * What started it: a signal's name, `uncaughtException`, `unhandledRejection`, `beforeExit`, `disconnect` (the
   * primary of a cluster is gone), `close`, or what `shutdown()` was given.
   */
  reason: string
  /** Milliseconds that each step took. */
  phases: { delaying: number, draining: number, closing: number, callbacks: number }
  /** Milliseconds from start to end. */
  time: number
  /** Requests that were answered in full after the shutdown had started. */
  completed: number
  /** Requests that were refused with a 503. */
  refused: number
  /** Who was cut off, by a timeout of a response or at the end of the drain. */
  cut: InFlightEntry[]
  /** The callbacks, in the order in which they ran. */
  callbacks: CallbackReport[]
  /** What else went wrong: uncaught errors, before the shutdown or during it; an `onClose` hook that failed or hung. */
  errors: Error[]
  /** How many more errors there were: `errors` keeps the first 20. */
  omittedErrors: number
  /** 0 where nothing was cut and nothing failed, else 1. */
  exitCode: 0 | 1
}

/** The controller, `fastify.gracefulShutdown`. */
export interface GracefulShutdown {
  /** Where the shutdown stands. */
  readonly phase: Phase
  /** Aborts as the shutdown starts: time to end streams and stop polling. */
  readonly signal: AbortSignal
  /**
   * Registers a cleanup callback. Callbacks run one after another, in the order registered.
   * Throws `FST_ERR_GRACEFUL_CALLBACK_INVALID`, or `FST_ERR_GRACEFUL_CALLBACK_TOO_LATE` once callbacks run.
   */
  onShutdown (callback: ShutdownCallback, options?: CallbackOptions): void
  /**
   * Shuts down, the same way as `fastify.close()`, and tells how it went. It never rejects and does not
   * end the process; called again, it joins the shutdown under way.
   * @param reason what the report and the log give as the reason. Default: `shutdown`.
   */
  shutdown (reason?: unknown): Promise<ShutdownReport>
  /**
   * Ends the `shutdownDelay` that is under way, or leaves out the one to come: for who knows that no load balancer
   * sends anything any more.
   */
  skipDelay (): void
  /** Waits for a shutdown, whoever starts it, to be done. It never rejects. */
  wait (): Promise<ShutdownReport>
  /** Who is in flight: requests, oldest first, then background work. */
  inFlight (): InFlightEntry[]
  /**
   * Has the drain wait for background work, too.
   * Throws `FST_ERR_GRACEFUL_TRACK_INVALID` for what is not a promise.
   * @param name what `inFlight()`, log and report call it. Default: `task`.
   * @returns the same promise
   */
  track<T extends PromiseLike<unknown>> (promise: T, name?: unknown): T
  /** Takes this instance out of rotation (`false`), or back in, without shutting down. */
  setReady (ready: boolean): void
  /** The liveness probe's handler, to mount elsewhere. */
  readonly healthHandler: ProbeHandler
  /** The readiness probe's handler, to mount elsewhere. */
  readonly readyHandler: ProbeHandler
}

/** A probe's route handler; it serves on the same instance or on another one. */
export type ProbeHandler = (request: FastifyRequest, reply: FastifyReply) => Promise<FastifyReply>

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether a shutdown has started. */
    readonly isShuttingDown: boolean
    /** How many requests are in flight; probes and refused requests do not count. Constant time. */
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
