// Wraps the handlers of routes and their late hooks. onRoute hooks still get the author's functions. In a route that other code has kept,
// the handler is the author's, but the error handler and the late hooks are the wrapped ones.

import type { FastifyInstance, RouteOptions } from 'fastify'
import type { Probes } from '../probes.ts'
import type { Handlers } from './handlers.ts'
import type { Timeouts } from './timeouts.ts'
import { mapHooks } from '../map-hooks.ts'
import { resolveRouteOptions } from '../options.ts'
import { attempt, mapFunction, type AnyFunction } from '../values.ts'
import { LATE_HOOKS, type LateHooks } from './late-hooks.ts'

/** What is wrapped. Fastify reads `handler` as it adds the route, the others when all plugins are loaded. */
const WRAPPED = ['handler', 'errorHandler', ...LATE_HOOKS] as const

/** The author's value, by its wrapper. */
const originals = new WeakMap<object, unknown>()

/** Observes each route as it is added. onRoute hooks that are added later still get it as its author has written it. */
export function observeRoutes (
  fastify: FastifyInstance, probes: Probes, handlers: Handlers, lateHooks: LateHooks, timeouts: Timeouts
): void {
  const observe = (route: RouteOptions) => {
    if (probes.isHandler(route.handler)) Reflect.set(route, 'config', { ...route.config, gracefulShutdown: false })
    const own = resolveRouteOptions(route.url, attempt(() => route.config?.gracefulShutdown))
    if (own === false) {
      wrap(route, 'handler', handlers.optOut)
    } else {
      timeouts.noteLimits(own)
      wrap(route, 'handler', handlers.observe)
      wrap(route, 'errorHandler', handlers.observe)
      for (const name of LATE_HOOKS) wrap(route, name, hook => lateHooks.observe(name, hook))
    }
    // Fastify has read it by then.
    queueMicrotask(() => { restore(route, 'handler') })
  }
  fastify.addHook('onRoute', route => {
    probes.assertNotTaken(route)
    observe(route)
  })
  mapHooks(fastify, 'onRoute', hook => function (this: unknown, route: RouteOptions) {
    for (const name of WRAPPED) restore(route, name)
    hook.call(this, route)
    observe(route)
  })
}

function wrap (route: RouteOptions, name: typeof WRAPPED[number], wrapper: (author: AnyFunction) => AnyFunction): void {
  const { [name]: author } = route
  const wrapped = Array.isArray(author) ? mapped(author, wrapper) : mapFunction(author, wrapper)
  if (wrapped === author) return
  originals.set(wrapped as object, author)
  // Not an assignment: other code may have frozen the route, which then stays as it is.
  Reflect.set(route, name, wrapped)
}

function restore (route: RouteOptions, name: typeof WRAPPED[number]): void {
  const author = originals.get(route[name] as object)
  if (author !== undefined) Reflect.set(route, name, author)
}

/** The list, to which other code may still add, with its functions changed as they are read. */
function mapped (list: unknown[], map: (element: AnyFunction) => AnyFunction): unknown[] {
  // A proxy may not show another value for a property that cannot change.
  const properties = Object.values(Object.getOwnPropertyDescriptors(list))
  const isFixed = properties.some(({ configurable, writable }) => configurable !== true && writable !== true)
  if (isFixed) return list.map(element => mapFunction(element, map))
  return new Proxy(list, {
    get: (target, key, receiver) => {
      const value: unknown = Reflect.get(target, key, receiver)
      return Object.hasOwn(target, key) ? mapFunction(value, map) : value
    }
  })
}
