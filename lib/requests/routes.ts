// Routes: the plugin wraps the handlers and adds hooks, which the onRoute hooks of other code do not see.

import type { FastifyInstance, RouteOptions, onRequestHookHandler, preParsingHookHandler } from 'fastify'
import type { Probes } from '../probes.ts'
import type { Handlers } from './handlers.ts'
import type { InFlight } from './in-flight.ts'
import type { LateHooks } from './late-hooks.ts'
import type { Timeouts } from './timeouts.ts'
import { resolveRouteOptions } from '../options.ts'
import { Exchange, METHODS_WITHOUT_BODY } from './exchange.ts'

interface Parts {
  readonly probes: Probes
  readonly handlers: Handlers
  readonly lateHooks: LateHooks
  readonly inFlight: InFlight
  readonly timeouts: Timeouts
}

type OnRoute = (this: FastifyInstance, route: RouteOptions) => unknown
type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

export class Routes {
  readonly #parts: Parts
  readonly #beforeParsing: preParsingHookHandler
  readonly #afterParsing = hookFor(exchange => { exchange.parsed() })
  /** The options of each route as other code has written them. */
  readonly #written = new WeakMap<RouteOptions, RouteOptions>()

  constructor (parts: Parts) {
    this.#parts = parts
    this.#beforeParsing = (_request, reply, payload, done) => {
      const exchange = Exchange.of(reply)
      exchange?.parse(payload)
      // The client may have left while hooks ran; then nothing else reports that its body is lost.
      if (exchange?.wire === 'orphaned') parts.inFlight.check(exchange)
      done()
    }
  }

  /**
   * Observes each route as it is added. An onRoute hook that is added later may look for the author's handler, or add
   * a default for a hook that the author has not given, so it gets the options as they were written.
   */
  observe (fastify: FastifyInstance): void {
    const routes = this
    const { addHook } = fastify as unknown as { addHook: AddHook }
    fastify.addHook('onRoute', route => {
      this.#parts.probes.assertNotTaken(route)
      this.#observe(route)
    })
    const hiding = (hook: OnRoute): OnRoute => function (route) {
      routes.#restore(route)
      hook.call(this, route)
      routes.#observe(route)
    }
    const adding: AddHook = function (name, hook) {
      return addHook.call(this, name, name === 'onRoute' && typeof hook === 'function' ? hiding(hook as OnRoute) : hook)
    }
    // Children inherit it.
    Object.assign(fastify, { addHook: adding })
  }

  #observe (route: RouteOptions): void {
    const { probes, handlers, lateHooks, inFlight, timeouts } = this.#parts
    const own = probes.isHandler(route.handler) ? false : resolveRouteOptions(route.url, route.config?.gracefulShutdown)
    if (own === false) route.config = { ...route.config, gracefulShutdown: false }
    this.#written.set(route, { ...route })
    if (own === false) {
      prependOnRequest(route, exchange => { inFlight.optOut(exchange) })
      return
    }
    // What is no function is left to Fastify, which throws.
    if (typeof route.handler === 'function') route.handler = handlers.observe(route.handler)
    if (typeof route.errorHandler === 'function') route.errorHandler = handlers.observe(route.errorHandler)
    lateHooks.observeRoute(route)
    if ([route.method].flat().some(method => !METHODS_WITHOUT_BODY.has(method))) {
      route.preParsing = [...hooksOf(route.preParsing), this.#beforeParsing]
      route.preValidation = [this.#afterParsing, ...hooksOf(route.preValidation)]
    }
    // A route's own settings are applied by a hook on that route, so that other routes pay nothing for them.
    if (Object.keys(own).length === 0) return
    const ownOptions = { ...own }
    timeouts.noteRoute(ownOptions)
    prependOnRequest(route, exchange => { exchange.options = ownOptions })
  }

  #restore (route: RouteOptions): void {
    const written = this.#written.get(route)
    // A context that is older than the plugin does not run its onRoute hook.
    if (written === undefined) return
    for (const name of Object.keys(route)) if (!(name in written)) Reflect.deleteProperty(route, name)
    Object.assign(route, written)
  }
}

/** A list, also of one hook; of what is no hook, so that Fastify throws. */
function hooksOf<H> (hooks: H | H[] | undefined): H[] {
  return hooks === undefined ? [] : [hooks].flat() as H[]
}

/** A hook that the plugin adds to a route. */
function hookFor (apply: (exchange: Exchange) => void): onRequestHookHandler {
  return (_request, reply, done) => {
    const exchange = Exchange.of(reply)
    if (exchange !== undefined) apply(exchange)
    done()
  }
}

function prependOnRequest (route: RouteOptions, apply: (exchange: Exchange) => void): void {
  route.onRequest = [hookFor(apply), ...hooksOf(route.onRequest)]
}
