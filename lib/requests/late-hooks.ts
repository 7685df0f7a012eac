// Async hooks that Fastify runs once a response has been sent, a connection has timed out, or the client has disconnected. The drain
// waits for their promises.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { InFlight } from './in-flight.ts'
import type { Tasks } from './tasks.ts'
import { Deferred } from '../deferred.ts'
import { attempt, nameOf, type AnyFunction } from '../values.ts'
import { Exchange } from './exchange.ts'
import { isThenable, observeThenable } from './thenable.ts'

/** How many parameters such a hook has if it takes a callback. The drain does not wait for a callback: it may never be called. */
const WITH_CALLBACK = { onResponse: 3, onTimeout: 3, onRequestAbort: 2 }

type Name = keyof typeof WITH_CALLBACK

export const LATE_HOOKS = Object.keys(WITH_CALLBACK) as Name[]

export class LateHooks {
  readonly #inFlight: InFlight
  readonly #tasks: Tasks

  constructor (inFlight: InFlight, tasks: Tasks) {
    this.#inFlight = inFlight
    this.#tasks = tasks
  }

  /** A proxy, because Fastify checks whether the function is async and how many parameters it has. */
  observe (name: Name, hook: AnyFunction): AnyFunction {
    if (hook.length >= WITH_CALLBACK[name]) return hook
    return new Proxy(hook, {
      apply: (_hook, instance, args: unknown[]) => {
        const result: unknown = Reflect.apply(hook, instance, args)
        if (isThenable(result)) {
          const ended = name === 'onRequestAbort'
            ? this.#track(hook, args[0] as FastifyRequest)
            : this.#count(Exchange.of(args[1] as FastifyReply))
          // If it rejects, Fastify logs the error.
          if (!observeThenable(result, { fulfilled: ended, rejected: ended })) ended()
        }
        return result
      }
    })
  }

  /** An onRequestAbort hook gets no reply, so its exchange is not known: it counts as background work. Returns what ends that. */
  #track ({ name }: AnyFunction, request: FastifyRequest): () => void {
    // Its request counts until its handler is called, or a sweep notices.
    const hasOptedOut = attempt(() => request.routeOptions.config.gracefulShutdown) === false
    if (hasOptedOut || this.#inFlight.isUncounted(request.raw)) return () => {}
    const { promise, resolve } = new Deferred<void>()
    this.#tasks.track(promise, `onRequestAbort hook ${nameOf(name)}`.trim())
    return resolve
  }

  #count (exchange: Exchange | undefined): () => void {
    if (exchange?.arePromisesAwaited !== true) return () => {}
    // The request may be over.
    this.#inFlight.reenter(exchange)
    exchange.keepAge()
    exchange.runningHandlers++
    return () => {
      exchange.runningHandlers--
      if (exchange.wire !== 'open') this.#inFlight.checkSoon(exchange)
    }
  }
}
