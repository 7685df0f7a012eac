// The public types, and the plugin's additions to Fastify's types.

import type { FastifyBaseLogger, FastifyContextConfig, FastifySchema } from 'fastify'

/** The phase of a shutdown. It is also `closing` while callbacks run. */
export type Phase = 'running' | 'delaying' | 'draining' | 'closing' | 'closed'

/** A signal that can start a shutdown. The signals of a crash (SIGSEGV, SIGABRT…) cannot. */
export type ShutdownSignal = 'SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGQUIT' | 'SIGUSR2'

/** The process events that can start a shutdown: signals, uncaught errors, and an empty event loop. */
export type ProcessEvent = ShutdownSignal | 'uncaughtException' | 'unhandledRejection' | 'beforeExit'

/**
 * A check behind a probe. It fails when it returns or resolves to `false`, throws, rejects,
 * or takes longer than the probe's `checkTimeout`. Probes that come while it runs share the run. The log has its error when it
 * begins to fail (level warn), and a line when it passes again (info).
 */
export type ProbeCheck = () => unknown

/** A probe's route. */
export interface ProbeOptions {
  /** Path of the route, with a leading slash. Default: `/health`, `/ready`. */
  path?: string
  /** Named checks, run in parallel on each probe; one that fails makes the probe answer 503. Default: none. */
  checks?: Record<string, ProbeCheck>
  /** How long a check may take, in milliseconds. Default: 1000. */
  checkTimeout?: number
  /**
   * Whether the probe is left to the application's hooks, such as a global authentication. With `false`, it is answered ahead
   * of hooks that are registered after the plugin. Default: false.
   */
  guarded?: boolean
  /**
   * Schema of the route, for @fastify/swagger: `{ hide: true }`, or a description. Requests and answers are not changed by it.
   * Unless `guarded`, it may refer only to shared schemas that are added before the plugin. Default: none.
   */
  schema?: FastifySchema
  /** Config of the route, for other plugins; its `gracefulShutdown` is always false. Default: none. */
  config?: FastifyContextConfig & Record<string, unknown>
  /** Log level of the route; `silent` keeps probes out of the request log. Default: the instance's. */
  logLevel?: string
}

/** The liveness probe's route. */
export interface HealthProbeOptions extends ProbeOptions {
  /**
   * The status code during a shutdown, with the body `{"status":"shutting_down"}` in either case. With 200, an orchestrator
   * whose patience is shorter than the shutdown does not restart the process; checks do not run. Default: 503.
   */
  duringShutdown?: 200 | 503
}

/** Options of the plugin. All times are in milliseconds. */
export interface GracefulOptions {
  /**
   * Limit for the shutdown. If a process event started it, the process exits after this time at the latest, also if other code
   * called `close()`. Default: 30000.
   */
  shutdownTimeout?: number
  /**
   * How long the shutdown waits for requests in flight, and for the `preClose` hooks of plugins. With `shutdownDelay`, it must leave
   * a tenth of `shutdownTimeout`, or 500 ms if that is less. Default: five sixths of what `shutdownDelay` leaves of
   * `shutdownTimeout`, at most 25000, and no more than fits.
   */
  drainTimeout?: number
  /**
   * How long the instance still serves requests after its readiness probe starts to fail, so that load balancers can send
   * requests elsewhere first. Skipped if the instance does not listen, and on SIGINT. Default: 0.
   */
  shutdownDelay?: number
  /**
   * How long a client may take to send the headers of a request, and its body: a body has one more second for each KiB that has
   * arrived. Then the request is answered with 408. `false` turns it off. A route may have its own for bodies in
   * `config.gracefulShutdown.readTimeout`.
   * Sets Node's `server.headersTimeout`, unless that is shorter; Node's `server.requestTimeout`, which limits the whole request,
   * is then off.
   * Default: 10000. If `requestTimeout` was given to Fastify, Node enforces that on HTTP/1 instead, and it is the default on
   * HTTP/2, where Node does not.
   */
  readTimeout?: number | false
  /**
   * A response that makes no progress for this long is cut: its client gets a 503 if no header has been sent yet, else
   * its connection is closed. `false` turns it off. A route may have its own in `config.gracefulShutdown.writeTimeout`.
   *
   * It does not act while the handler waits for the body (see `readTimeout`), and an event stream (`text/event-stream`) may be
   * silent for any length of time. If a hijacked reply's head is written with `reply.raw.writeHead()`, Node does not show its
   * content type, so it may be silent, too. It also does not act if the handler has set a timeout by `reply.raw.setTimeout()`,
   * nor, before the response has begun, if Fastify's `handlerTimeout` is set.
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
   * Which process events start the shutdown: `true` for SIGTERM, SIGINT, SIGHUP, SIGQUIT and uncaught errors, a list for
   * these only, `false` for none. With any, a worker of node:cluster also shuts down when its primary exits or disconnects it.
   * The process then exits, unless other code has called `close()` or `shutdown()`, which then decides when it exits.
   * Throws `FST_ERR_GRACEFUL_CRASH_SIGNAL` for the signal of a crash, and in a worker thread, which receives no signals,
   * `FST_ERR_GRACEFUL_WORKER_THREAD` for a list with signals. Default: true.
   */
  signals?: boolean | readonly ProcessEvent[]
  /** The liveness probe: a path, an object, or `false` for none. Default: `/health`. */
  health?: string | HealthProbeOptions | false
  /** The readiness probe: a path, an object, or `false` for none. Default: `/ready`. */
  ready?: string | ProbeOptions | false
}

/**
 * A route's own settings, in `config.gracefulShutdown`. With `false`, its requests are neither rejected nor waited for, and
 * `writeTimeout` does not act on them.
 */
export type GracefulRouteOptions = false | {
  /** The route's own {@link GracefulOptions.readTimeout}, for bodies; `false` for an upload that may pause for any length of time. */
  readTimeout?: number | false
  /** The route's own {@link GracefulOptions.writeTimeout}; `false` for a stream that may pause for any length of time. */
  writeTimeout?: number | false
}

/** The argument of a shutdown callback. */
export interface ShutdownContext {
  /** Aborts when this callback has run out of time. */
  signal: AbortSignal
  /** When this callback runs out of time, as a `Date.now()` timestamp. */
  deadline: number
  /** What started the shutdown; see {@link ShutdownReport.reason}. */
  reason: string
  /** A logger that carries the callback's name. */
  log: FastifyBaseLogger
}

/** Runs after the drain and after all connections are closed; handlers that were cut may still run. May return a promise. */
export type ShutdownCallback = (context: ShutdownContext) => unknown

/** Options of a shutdown callback. */
export interface CallbackOptions {
  /** Name in log and report. Default: the function's name, or its place in the order. */
  name?: string
  /**
   * How many milliseconds it may take. It may be shortened so that each later callback keeps half of its fair share.
   * Default: a fair share of the time left, the same for each callback that has not run yet.
   */
  timeout?: number
}

/** A request in flight. */
export interface RequestInFlight {
  /** `task` for background work, see {@link TaskInFlight}. */
  kind: 'request'
  /** The HTTP method. */
  method: string
  /** The route's pattern; undefined if no route matched. */
  route: string | undefined
  /**
   * The URL as the logger's `req` serializer shows it; undefined if it shows none. The query is removed if no serializer is
   * known: without a logger, with a logger other than pino, and while a hook registered before the plugin holds the request.
   */
  url: string | undefined
  /** Fastify's request id; undefined while a hook registered before the plugin holds the request. */
  reqId: string | undefined
  /** Milliseconds since it arrived. */
  age: number
}

/** Background work in flight, from {@link GracefulShutdown.track}. */
export interface TaskInFlight {
  /** `request` for a request, see {@link RequestInFlight}. */
  kind: 'task'
  /** The name given to `track()`. */
  name: string
  /** Milliseconds since `track()` was called. */
  age: number
}

/** What a shutdown waits for. */
export type InFlightEntry = RequestInFlight | TaskInFlight

/** The result of a shutdown callback. */
export interface CallbackReport {
  /** Its name, see {@link CallbackOptions.name}. */
  name: string
  /** Milliseconds that it took. */
  time: number
  /** The error that it threw, or a timeout error. */
  error?: Error
}

/** The result of a shutdown. */
export interface ShutdownReport {
  /**
   * What started it: a signal's name, `uncaughtException`, `unhandledRejection`, `beforeExit`, `disconnect` (the primary of
   * a cluster has exited or disconnected the worker), `close`, or what `shutdown()` was given.
   */
  reason: string
  /** Milliseconds that each step took. */
  phases: {
    /** `shutdownDelay`, unless it was skipped. */
    delaying: number
    /** The wait for requests and background work in flight, and for `preClose` hooks. */
    draining: number
    /** The end of listeners and connections, and the `onClose` hooks. */
    closing: number
    /** All shutdown callbacks. */
    callbacks: number
  }
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
   * What else went wrong: uncaught errors; an error given to `shutdown()`; a `preClose` or `onClose` hook that failed or did not end;
   * background work that failed during the shutdown. At most 20.
   */
  errors: Error[]
  /** The number of errors beyond the 20 that `errors` keeps. */
  omittedErrors: number
  /** 0 if nothing was cut and nothing failed, else 1. */
  exitCode: 0 | 1
}

/** The controller, `fastify.gracefulShutdown`. */
export interface GracefulShutdown {
  /** The phase of the shutdown. */
  readonly phase: Phase
  /** Aborts when the shutdown starts: end streams, stop polling. */
  readonly signal: AbortSignal
  /**
   * Registers a cleanup callback. Callbacks run one after another, in the order registered.
   * Throws `FST_ERR_GRACEFUL_CALLBACK_INVALID`, or `FST_ERR_GRACEFUL_CALLBACK_TOO_LATE` if callbacks are running already.
   */
  onShutdown (callback: ShutdownCallback, options?: CallbackOptions): void
  /**
   * Shuts down in the same way as `fastify.close()`, and resolves to the report. It never rejects and does not end the process.
   * If called again, it joins the shutdown in progress. If called inside a shutdown callback, a `preClose` or an `onClose` hook,
   * it resolves at once to the report so far, because the rest would wait for itself.
   * @param reason shown as the reason in report and log; an Error is also added to the report's errors. Default: `shutdown`.
   */
  shutdown (reason?: unknown): Promise<ShutdownReport>
  /**
   * Ends the current `shutdownDelay`, or skips it if it has not started. Call it if no load balancer sends requests any more.
   */
  skipDelay (): void
  /**
   * Waits for the end of a shutdown, whatever starts it, and resolves to the report. Never rejects. Inside a shutdown callback, a
   * `preClose` or an `onClose` hook, it resolves at once, as `shutdown()` does.
   */
  wait (): Promise<ShutdownReport>
  /** Everything in flight: requests, oldest first, then background work. */
  inFlight (): InFlightEntry[]
  /**
   * Makes the drain also wait for background work. If it fails, the error is logged; during a shutdown, it is also added to the
   * report's errors. A lazy thenable, such as a query builder, is not started: await it yourself.
   * Throws `FST_ERR_GRACEFUL_TRACK_INVALID` if it is not a promise, or is a frozen thenable.
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

/** A probe's route handler, for the same instance or another one, over HTTP, HTTPS or HTTP/2. */
// Fastify's request and reply of one kind of server are not those of another, and have no common type.
export type ProbeHandler = (request: any, reply: any) => Promise<any> // oxlint-disable-line no-explicit-any

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether a shutdown has started. */
    readonly isShuttingDown: boolean
    /** The number of requests in flight; probes and rejected requests do not count. Constant time. */
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
