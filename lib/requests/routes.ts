// Routes: their handlers are wrapped, and hooks are added to them. Other code does not see that: it may look for the author's handler, or
// add a default for a hook that the author has not given, while a route is added or until the application is ready.

import type { FastifyInstance, RouteOptions, onRequestHookHandler, preParsingHookHandler, preValidationHookHandler } from 'fastify'
import type { Probes } from '../probes.ts'
import type { AbortHooks } from './abort-hooks.ts'
import type { AnyHandler, Handlers } from './handlers.ts'
import type { InFlight } from './in-flight.ts'
import type { Timeouts } from './timeouts.ts'
import { mapHooks } from '../map-hooks.ts'
import { resolveRouteOptions } from '../options.ts'
import { Exchange, METHODS_WITHOUT_BODY } from './exchange.ts'

interface Parts {
  readonly probes: Probes
  readonly handlers: Handlers
  readonly abortHooks: AbortHooks
  readonly inFlight: InFlight
  readonly timeouts: Timeouts
}

/** The hooks that are added to routes. */
const HOOKS = ['preParsing', 'preValidation', 'onRequestAbort'] as const

export class Routes {
  readonly #parts: Parts
  readonly #optOut: preParsingHookHandler
  readonly #beforeParsing: preParsingHookHandler
  /** Those whose hooks Fastify has not read yet. */
  readonly #added = new Set<RouteOptions>()
  /** By the handler that Fastify gets in its place. */
  readonly #authors = new WeakMap<object, unknown>()

  constructor (parts: Parts) {
    this.#parts = parts
    const { inFlight } = parts
    this.#optOut = (_request, reply, _payload, done) => {
      const exchange = Exchange.of(reply)
      if (exchange !== undefined) inFlight.optOut(exchange)
      done()
    }
    this.#beforeParsing = (_request, reply, payload, done) => {
      const exchange = Exchange.of(reply)
      exchange?.parse(payload)
      // The client may have left while hooks ran; then nothing else reports that its body is lost.
      if (exchange?.wire === 'orphaned') inFlight.check(exchange)
      done()
    }
  }

  /** Observes each route as it is added. onRoute hooks that are added later still get it as its author has written it. */
  observe (fastify: FastifyInstance): void {
    const { probes } = this.#parts
    const routes = this
    fastify.addHook('onRoute', route => {
      probes.assertNotTaken(route)
      routes.#observe(route)
    })
    mapHooks(fastify, 'onRoute', hook => function (this: unknown, route: RouteOptions) {
      routes.#restore(route, 'handler')
      routes.#restore(route, 'errorHandler')
      hook.call(this, route)
      routes.#observe(route)
    })
  }

  #observe (route: RouteOptions): void {
    const { probes, timeouts } = this.#parts
    if (probes.isHandler(route.handler)) {
      change(route, { config: { ...route.config, gracefulShutdown: false } })
      return
    }
    const own = resolveRouteOptions(route.url, route.config?.gracefulShutdown)
    this.#added.add(route)
    if (own === false) return
    timeouts.noteRoute(own)
    change(route, { handler: this.#wrap(route.handler), ...(route.errorHandler && { errorHandler: this.#wrap(route.errorHandler) }) })
    // Fastify has read it once the route is added. It reads the error handler once more, before the hooks.
    queueMicrotask(() => { this.#restore(route, 'handler') })
  }

  #wrap<H> (handler: H): H {
    // What is no function is left to Fastify, which throws.
    if (typeof handler !== 'function') return handler
    const wrapped = this.#parts.handlers.observe(handler as H & AnyHandler)
    this.#authors.set(wrapped, handler)
    return wrapped
  }

  #restore (route: RouteOptions, name: 'handler' | 'errorHandler'): void {
    const author = this.#authors.get(route[name] as object)
    if (author !== undefined) change(route, { [name]: author })
  }

  /**
   * Fastify reads the hooks of routes when the application is ready, and tells no one. But meanwhile it binds the hooks of each instance.
   * Returns a hook that notices that.
   */
  whenRead (hook: onRequestHookHandler): onRequestHookHandler {
    const bind = (...args: Parameters<typeof hook.bind>) => {
      this.#addHooks()
      return Function.prototype.bind.apply(hook, args) as unknown
    }
    return Object.defineProperty(hook, 'bind', { value: bind })
  }

  #addHooks (): void {
    for (const route of this.#added) {
      const written = { ...route }
      change(route, this.#hooksFor(route))
      // As soon as Fastify has read the hooks of all routes.
      queueMicrotask(() => {
        for (const name of HOOKS) if (name in written) change(route, { [name]: written[name] }); else Reflect.deleteProperty(route, name)
        this.#restore(route, 'errorHandler')
      })
    }
    this.#added.clear()
  }

  #hooksFor ({ config, method, preParsing, preValidation, onRequestAbort }: RouteOptions): Partial<RouteOptions> {
    if (config?.gracefulShutdown === false) return { preParsing: [this.#optOut, ...listOf(preParsing)] }
    const hooks: Partial<RouteOptions> = {}
    if ([method].flat().some(name => !METHODS_WITHOUT_BODY.has(name))) {
      hooks.preParsing = [...listOf(preParsing), this.#beforeParsing]
      hooks.preValidation = [afterParsing, ...listOf(preValidation)]
    }
    if (onRequestAbort) hooks.onRequestAbort = listOf(onRequestAbort).map(this.#parts.abortHooks.observe)
    return hooks
  }
}

/** If other code has frozen it, it stays as it is, and its handlers are not observed. */
function change (route: RouteOptions, properties: Partial<RouteOptions>): void {
  for (const [name, value] of Object.entries(properties)) Reflect.set(route, name, value)
}

/** A list, also of one hook. */
function listOf<H> (hooks: H | H[] | undefined): H[] {
  return hooks === undefined ? [] : [hooks].flat() as H[]
}

const afterParsing: preValidationHookHandler = (_request, reply, done) => {
  Exchange.of(reply)?.parsed()
  done()
}
