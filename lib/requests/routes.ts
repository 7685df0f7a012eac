// Wraps the handlers of routes. onRoute hooks still get the author's functions, and code that keeps a route finds its handler; it sees the
// error handler and onRequestAbort hooks wrapped.

import type { FastifyInstance, RouteOptions } from 'fastify'
import type { Probes } from '../probes.ts'
import type { AbortHooks } from './abort-hooks.ts'
import type { AnyHandler, Handlers } from './handlers.ts'
import type { Timeouts } from './timeouts.ts'
import { mapHooks } from '../map-hooks.ts'
import { resolveRouteOptions } from '../options.ts'

interface Parts {
  readonly probes: Probes
  readonly handlers: Handlers
  readonly abortHooks: AbortHooks
  readonly timeouts: Timeouts
}

/** What is wrapped. Fastify reads `handler` as it adds the route, the others when all plugins are loaded. */
const WRAPPED = ['handler', 'errorHandler', 'onRequestAbort'] as const

export class Routes {
  readonly #parts: Parts
  /** The author's value, by its wrapper. */
  readonly #originals = new WeakMap<object, unknown>()

  constructor (parts: Parts) {
    this.#parts = parts
  }

  /** Observes each route as it is added. onRoute hooks that are added later still get it as its author has written it. */
  observe (fastify: FastifyInstance): void {
    const routes = this
    fastify.addHook('onRoute', route => {
      this.#parts.probes.assertNotTaken(route)
      this.#observe(route)
    })
    mapHooks(fastify, 'onRoute', hook => function (this: unknown, route: RouteOptions) {
      for (const name of WRAPPED) routes.#restore(route, name)
      hook.call(this, route)
      routes.#observe(route)
    })
  }

  #observe (route: RouteOptions): void {
    const { probes, handlers, abortHooks, timeouts } = this.#parts
    if (probes.isHandler(route.handler)) set(route, 'config', { ...route.config, gracefulShutdown: false })
    const own = resolveRouteOptions(route.url, route.config?.gracefulShutdown)
    if (own === false) {
      this.#wrap(route, 'handler', handlers.optOut)
    } else {
      timeouts.noteRoute(own)
      this.#wrap(route, 'handler', handlers.observe)
      this.#wrap(route, 'errorHandler', handlers.observe)
      this.#wrap(route, 'onRequestAbort', abortHooks.observe)
    }
    // Fastify has read it by then.
    queueMicrotask(() => { this.#restore(route, 'handler') })
  }

  #wrap (route: RouteOptions, name: typeof WRAPPED[number], wrap: (handler: AnyHandler) => AnyHandler): void {
    const { [name]: author } = route
    const wrapped = Array.isArray(author) ? mapped(author, wrap as (hook: unknown) => unknown) : wrapFunction(author, wrap)
    if (wrapped === author) return
    this.#originals.set(wrapped as object, author)
    set(route, name, wrapped)
  }

  #restore (route: RouteOptions, name: typeof WRAPPED[number]): void {
    const author = this.#originals.get(route[name] as object)
    if (author !== undefined) set(route, name, author)
  }
}

/** If other code has frozen the route, it stays as it is. */
function set (route: RouteOptions, name: keyof RouteOptions, value: unknown): void {
  Reflect.set(route, name, value)
}

/** If it is not a function, Fastify throws. */
function wrapFunction (value: unknown, wrap: (handler: AnyHandler) => AnyHandler): unknown {
  return typeof value === 'function' ? wrap(value as AnyHandler) : value
}

/** The list, to which other code may still add, with its elements changed as they are read. */
function mapped (list: unknown[], map: (element: unknown) => unknown): unknown[] {
  // A proxy may not show other elements than a frozen list has.
  if (Object.isFrozen(list)) return list.map(map)
  return new Proxy(list, {
    get: (target, key, receiver) => {
      const value: unknown = Reflect.get(target, key, receiver)
      return Object.hasOwn(target, key) && typeof value === 'function' ? map(value) : value
    }
  })
}
