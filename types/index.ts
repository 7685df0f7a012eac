// The public types, and the plugin's additions to Fastify's types.

import type { FastifyBaseLogger, FastifyContextConfig, FastifyInstance, FastifySchema } from 'fastify'

/** The phase of a shutdown. It is also `closing` while callbacks run. */
export type Phase = 'running' | 'delaying' | 'draining' | 'closing' | 'closed'

/** A signal that can start a shutdown. The signals of a crash (SIGSEGV, SIGABRT…) cannot. */
export type ShutdownSignal = 'SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGQUIT' | 'SIGUSR2'

/** The process events that can start a shutdown: signals, uncaught errors, and an empty event loop. */
export type ProcessEvent = ShutdownSignal | 'uncaughtException' | 'unhandledRejection' | 'beforeExit'

/**
 * A check of a probe. It fails if it returns or resolves to `false`, throws, rejects, or takes longer than the probe's
 * `checkTimeout`. Probes that arrive while it runs share that run. While a run that took too long has not ended, probes fail at once;
 * one that never ends is run again after twice `checkTimeout`, then after four times, and so on, at the latest after a minute.
 * Checks do not run during a shutdown. The log has the error when a check begins to fail (level warn), and a line when it passes
 * again (info).
 */
export type ProbeCheck = () => unknown

/** Options of a probe. */
export interface ProbeOptions {
  /** Path of the route, with a leading slash and without parameters. Default: `/health`, `/ready`. */
  path?: string
  /** Named checks, run in parallel for each probe. If one fails, the probe answers 503. Default: none. */
  checks?: Record<string, ProbeCheck>
  /** How long a check may take, in milliseconds. Default: 1000. */
  checkTimeout?: number
  /**
   * Whether all hooks of the application run before the probe, such as a global authentication. With `false`, the probe is answered
   * before the onRequest hooks that are registered after the plugin. Default: false.
   */
  guarded?: boolean
  /**
   * Schema of the route, for @fastify/swagger: `{ hide: true }`, or a schema that describes the probe. It does not change requests or
   * responses. Unless `guarded`, it may refer only to shared schemas that were added before the plugin. Default: none.
   */
  schema?: FastifySchema
  /** Config of the route, for other plugins; its `gracefulShutdown` is always false. Default: none. */
  config?: FastifyContextConfig & Record<string, unknown>
  /** Log level of the route; `silent` keeps probes out of the request log. Default: the instance's. */
  logLevel?: string
}

/** Options of the liveness probe. */
export interface HealthProbeOptions extends ProbeOptions {
  /**
   * The status code during a shutdown. The body is `{"status":"shutting_down"}` in both cases. Use 200 if the orchestrator
   * restarts a process that has been unhealthy for less than `shutdownTimeout`. Default: 503.
   */
  duringShutdown?: 200 | 503
}

/** A `shutdownDelay` that ends early once load balancers have stopped sending requests. In milliseconds. */
export interface AdaptiveDelay {
  /** The longest delay; it counts for the budget like a fixed delay. */
  max: number
  /** The delay ends when no request has arrived for this time, at most `max`. Probes and routes that have opted out do not count. */
  quiet: number
}

/** Options of the plugin. All times are in milliseconds. */
export interface GracefulOptions {
  /**
   * Limit for the whole shutdown. After a signal or an uncaught error, the process exits after this time at the latest, even if
   * other code has called `close()`. Default: 30000.
   */
  shutdownTimeout?: number
  /**
   * How long the shutdown waits for requests in flight, and for the `preClose` hooks of plugins. `shutdownDelay` + `drainTimeout`
   * must be at least 500 ms less than `shutdownTimeout` (10 % of it if it is under 5 s). Default: five sixths of (`shutdownTimeout` −
   * `shutdownDelay`), at most 25000, and not more than fits.
   */
  drainTimeout?: number
  /**
   * How long the instance still serves requests after the shutdown has started and the readiness probe has begun to fail, so that
   * load balancers have time to stop sending requests: a fixed time, or an {@link AdaptiveDelay}, which ends when requests stop
   * arriving. Skipped if the instance does not listen, on SIGINT, and after `skipDelay()`. Default: 0.
   */
  shutdownDelay?: number | AdaptiveDelay
  /**
   * Over how long WebSockets of @fastify/websocket, responses of routes with `onShutdown: 'end'`, and HTTP/2 sessions are closed, from
   * the start of the shutdown: evenly, so that their clients do not all reconnect at the same time, as with Envoy's gradual drain
   * strategy. At most `shutdownDelay` + `drainTimeout`. The rest is closed at once on SIGINT, after `skipDelay()`, and shortly before
   * `drainTimeout`. With 0, all are closed as draining starts. Default: 0.
   */
  spread?: number
  /**
   * Time limit for receiving the headers of a request, and for its body; a body has one more second for each KiB that has
   * arrived. A client that is too slow gets 408. `false` turns it off, except for Node's own limit of
   * 60 s for headers. A route can have its own limit for bodies, in `config.gracefulShutdown.readTimeout`.
   * Sets Node's `server.headersTimeout`, unless that is shorter, and turns off Node's `server.requestTimeout`, which limits the
   * whole request.
   * Default: 10000. If `requestTimeout` was given to Fastify, Node enforces it on HTTP/1 instead, and it is the default of this
   * option on HTTP/2, where Node does not enforce it.
   */
  readTimeout?: number | false
  /**
   * How long a response may make no progress before it is cut, at any time, not only during a shutdown. Its client gets a 503 if no
   * header has been sent yet; otherwise the connection is closed. `false` turns it off. A route can have its own limit, in
   * `config.gracefulShutdown.writeTimeout`.
   *
   * It does not apply while the client is sending the body (see `readTimeout`); to a silent event stream (`text/event-stream`); to a
   * hijacked reply, once its headers have been sent; to an injected request, if the instance does not listen; to a response of a
   * handler that has called `reply.raw.setTimeout()`; or to a response that has not begun, if Fastify's `handlerTimeout` is set.
   * Default: 10000; off for HTTP/1 if `connectionTimeout` was given to Fastify, which acts instead.
   */
  writeTimeout?: number | false
  /**
   * How long an idle keep-alive connection stays open; `false` turns it off.
   * Sets Node's `server.keepAliveTimeout` and, if given, the timeout of HTTP/2 sessions.
   * Default: 120000, or the `keepAliveTimeout` given to Fastify; on HTTP/2, Fastify's `http2SessionTimeout`.
   */
  idleTimeout?: number | false
  /**
   * Which process events start a shutdown: `true` for SIGTERM, SIGINT, SIGHUP, SIGQUIT and uncaught errors, a list for only
   * these events, `false` for none. A worker of `node:cluster` also shuts down when its primary disconnects it and, unless
   * `signals` is `false`, when its primary exits. The process exits afterwards, unless other code has called `close()`, `shutdown()`
   * or `server.close(callback)`: that code then has to end it.
   * Throws `FST_ERR_GRACEFUL_CRASH_SIGNAL` if the list has the signal of a crash, and `FST_ERR_GRACEFUL_WORKER_THREAD` if it has a
   * signal in a worker thread, which receives no signals. Default: true.
   */
  signals?: boolean | readonly ProcessEvent[]
  /** The liveness probe: a path, an object, or `false` for none. Default: `/health`. */
  health?: string | HealthProbeOptions | false
  /** The readiness probe: a path, an object, or `false` for none. Default: `/ready`. */
  ready?: string | ProbeOptions | false
}

/**
 * A route's own settings, in `config.gracefulShutdown`. With `false`, its requests are neither rejected nor waited for, and
 * `writeTimeout` does not apply to them.
 */
export type GracefulRouteOptions = false | {
  /** The route's own {@link GracefulOptions.readTimeout}, for bodies; `false` for an upload that may pause for any length of time. */
  readTimeout?: number | false
  /** The route's own {@link GracefulOptions.writeTimeout}; `false` for a stream that may pause for any length of time. */
  writeTimeout?: number | false
  /**
   * With `'end'`, a response that has begun, such as an event stream or NDJSON, is ended as draining starts, or over the time of
   * {@link GracefulOptions.spread}. A response that begins later is ended within a second. A response with a `content-length` is never
   * ended this way. A stream that Fastify still reads after its answer to HEAD is destroyed. What the handler writes then is ignored.
   * Default: the drain waits for the handler to end it.
   */
  onShutdown?: 'end'
  /**
   * With `'response'`, a request is over when its response has been sent, or its client has disconnected and the handler has answered: for
   * handlers that return promises which never settle. Default: the drain also waits for the promises of the handler and of its async
   * onResponse hooks.
   */
  waitFor?: 'response'
}

/** The argument of a shutdown callback. */
export interface ShutdownContext {
  /** Aborts when this callback fails or its time is over. */
  signal: AbortSignal
  /** When the time of this callback is over, as a `Date.now()` timestamp. */
  deadline: number
  /** What started the shutdown; see {@link ShutdownReport.reason}. */
  reason: string
  /** A logger that adds the callback's name to each line. */
  log: FastifyBaseLogger
}

/**
 * Runs after the drain, when all connections are closed; handlers that were cut may still be running. With `when: 'start'`, it runs as
 * the shutdown starts. May return a promise.
 */
export type ShutdownCallback = (context: ShutdownContext) => unknown

/** Options of a shutdown callback. */
export interface CallbackOptions {
  /** Name in log and report. Default: the function's name, else `callback 1` and so on. */
  name?: string
  /**
   * How many milliseconds it may take. It may be shortened so that each later callback keeps half of an equal share
   * of the time for all. Default: an equal share of the time left, divided among the callbacks that have not run yet. With
   * `when: 'start'`, it may last until the end of the drain, and this is the default.
   */
  timeout?: number
  /**
   * `end`: after the drain, one after another. `start`: as the shutdown starts, all at the same time; the drain waits for them as for
   * background work. Stop a queue worker or a consumer there, or deregister from service discovery. Default: `end`.
   */
  when?: 'start' | 'end'
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
   * The URL as the logger's `req` serializer shows it; undefined if it shows none. The query is removed if there is no known
   * serializer (without a logger, or with a logger other than pino), and while a hook registered before the plugin holds the request.
   * While middleware that is mounted on a path holds the request, the URL lacks that path, as `request.raw.url` does.
   */
  url: string | undefined
  /** Fastify's request id; undefined while a hook registered before the plugin holds the request. */
  reqId: string | undefined
  /** Milliseconds since it arrived. */
  age: number
}

/**
 * Background work in flight: work given to {@link GracefulShutdown.track}, a callback with `when: 'start'`, an async
 * `onRequestAbort` hook, or a listener for the server's `upgrade` or `connect` event that has not answered over the socket.
 */
export interface TaskInFlight {
  /** `request` for a request, see {@link RequestInFlight}. */
  kind: 'task'
  /** The name given to `track()`, or that of the callback, the hook or the listener. */
  name: string
  /** Milliseconds since it was given to `track()`, or since the callback, the hook or the listener was called. */
  age: number
}

/** What a shutdown waits for. */
export type InFlightEntry = RequestInFlight | TaskInFlight

/** A request or background work that the drain waited for; see {@link ShutdownReport.slowest}. */
export type DrainedEntry = InFlightEntry & {
  /** How many milliseconds after the start of the shutdown it ended. */
  after: number
}

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
   * What started it: the name of a signal, `uncaughtException`, `unhandledRejection`, `beforeExit`, `disconnect` (the primary of
   * this worker of `node:cluster` has exited), `close` (also if the primary has disconnected it), or the reason given to `shutdown()`.
   */
  reason: string
  /** Milliseconds that each step took. */
  phases: {
    /** `shutdownDelay`; less if it was skipped, or if it is adaptive. */
    delaying: number
    /** Waiting for requests and background work in flight, and for `preClose` hooks. */
    draining: number
    /** Closing listeners and connections, and running `onClose` hooks. */
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
  /**
   * What the drain waited for longest: the last five requests and background tasks to end while it waited, the last one first. What
   * the end of the drain cut is not among them, because it has not ended: see `cut`.
   */
  slowest: DrainedEntry[]
  /** The callbacks, in the order in which they ended. */
  callbacks: CallbackReport[]
  /**
   * What else failed: uncaught errors; an error given to `shutdown()`; a `preClose` or `onClose` hook that failed or did not end;
   * background work that failed during the shutdown. At most 20.
   */
  errors: Error[]
  /** How many more errors there were than the 20 in `errors`. */
  omittedErrors: number
  /** 0 if nothing was cut and nothing failed, else 1. */
  exitCode: 0 | 1
}

/**
 * The channels of `node:diagnostics_channel` on which the plugin publishes, each with the type of its messages. `fastify` is the root
 * instance, which tells several instances apart. If a subscriber throws, Node makes that an uncaught error.
 */
export interface DiagnosticsChannels {
  /** A phase has started. The first message of an instance is the start of its shutdown. */
  'fastify-graceful:phase': {
    /** The root instance. */
    fastify: FastifyInstance
    /** The phase that starts. */
    phase: Exclude<Phase, 'running'>
    /** What started the shutdown, as in the report. */
    reason: string
  }
  /** A request was rejected with a 503. */
  'fastify-graceful:refused': {
    /** The root instance. */
    fastify: FastifyInstance
    /** The request. */
    entry: RequestInFlight
  }
  /** A request or background work was cut: by a timeout at any time, or at the end of the drain. */
  'fastify-graceful:cut': {
    /** The root instance. */
    fastify: FastifyInstance
    /** The request or the work. */
    entry: InFlightEntry
    /** The code of the error, such as `FST_ERR_GRACEFUL_DRAIN_TIMEOUT`. */
    code: string
  }
  /** A shutdown callback has ended. */
  'fastify-graceful:callback': {
    /** The root instance. */
    fastify: FastifyInstance
    /** Its result, as in the report. */
    callback: CallbackReport
  }
  /** The shutdown is complete. A forced exit has no report. */
  'fastify-graceful:report': {
    /** The root instance. */
    fastify: FastifyInstance
    /** The report. */
    report: ShutdownReport
  }
}

/** The controller, `fastify.gracefulShutdown`. */
export interface GracefulShutdown {
  /** The phase of the shutdown. */
  readonly phase: Phase
  /** Aborts when the shutdown starts, before `shutdownDelay`: end streams, stop polling. */
  readonly signal: AbortSignal
  /**
   * Registers a callback. Callbacks run after the drain, one after another, in the order registered, or as the shutdown starts; see
   * {@link CallbackOptions.when}.
   * Throws `FST_ERR_GRACEFUL_CALLBACK_INVALID` if it is not a function, `FST_ERR_GRACEFUL_OPTION_INVALID` or
   * `FST_ERR_GRACEFUL_OPTION_UNKNOWN` for its options, and `FST_ERR_GRACEFUL_CALLBACK_TOO_LATE` once callbacks
   * of its kind are running.
   */
  onShutdown (callback: ShutdownCallback, options?: CallbackOptions): void
  /**
   * Shuts down in the same way as `fastify.close()`, and resolves to the report. It never rejects and does not end the process.
   * If called again, it joins the shutdown in progress. If called inside a shutdown callback, a `preClose` or an `onClose` hook,
   * it resolves at once to the report so far, because otherwise the shutdown would wait for itself.
   * @param reason shown as the reason in report and log; an Error is also added to the report's errors. Default: `shutdown`.
   */
  shutdown (reason?: unknown): Promise<ShutdownReport>
  /**
   * Ends the current `shutdownDelay`, or skips it if it has not started; the same for `spread`. Call it if load balancers no longer
   * send requests.
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
   * Makes the drain also wait for background work. If the work fails, the error is logged; during a shutdown, it is also added to
   * the report's errors. A lazy thenable, such as a query builder, is not started, and the end of a
   * promise of another library, such as bluebird, is seen only if your code awaits it: track `Promise.resolve(query)` instead.
   * Throws `FST_ERR_GRACEFUL_TRACK_INVALID` if the argument is neither a promise nor a function, or is a thenable that cannot
   * be observed: a frozen one, or a proxy that does not show what is set on it.
   * @param name the name in `inFlight()`, log and report. Default: `task`.
   * @returns the same promise
   */
  track<T extends PromiseLike<unknown>> (promise: T, name?: unknown): T
  /**
   * Starts background work, and makes the drain also wait for it, as for a promise.
   * @param work gets the `signal` that aborts when the shutdown starts
   * @returns a promise of its result
   */
  track<T> (work: (signal: AbortSignal) => T | PromiseLike<T>, name?: unknown): Promise<T>
  /**
   * Takes this instance out of rotation (`false`), or back in (`true`), without shutting down: `/ready` answers 503 or 200.
   * Throws `FST_ERR_GRACEFUL_OPTION_INVALID` if the argument is not a boolean.
   */
  setReady (ready: boolean): void
  /** The liveness probe's handler, for another route or instance. */
  readonly healthHandler: ProbeHandler
  /** The readiness probe's handler, for another route or instance. */
  readonly readyHandler: ProbeHandler
}

/** The route handler of a probe, for this instance or another one, over HTTP, HTTPS or HTTP/2. */
// The types of request and reply differ by the kind of server, and have no common type.
export type ProbeHandler = (request: any, reply: any) => Promise<any> // oxlint-disable-line no-explicit-any

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether a shutdown has started. */
    readonly isShuttingDown: boolean
    /**
     * The number of requests in flight, without probes and rejected requests. Reading it takes constant time. A request that Node or
     * Fastify answers before any hook, such as one with an invalid URL, may count for up to a second longer.
     */
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
