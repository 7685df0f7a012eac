// Hooks that may run after the handler has ended and the client has gone. Fastify runs preSerialization, onSend and onError hooks
// before it ends the response, even if the client has left. onRequestAbort hooks run beside the handler.

import type { FastifyInstance, RouteOptions, onSendHookHandler } from 'fastify'
import type { InFlight } from './in-flight.ts'
import type { Tasks } from './tasks.ts'
import { beforeCall } from '../before-call.ts'
import { nameOf, webStreamOf } from '../values.ts'
import { Exchange } from './exchange.ts'
import { isPlainPromise } from './thenable.ts'

const BEFORE_END = ['preSerialization', 'onSend', 'onError'] as const

type Hook = (this: unknown, ...args: unknown[]) => unknown
type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

export class LateHooks {
  readonly #tasks: Tasks
  /** Runs before each of these hooks, although once would do: Fastify does not say which hook is the first one. */
  readonly #sending: onSendHookHandler

  constructor (inFlight: InFlight, tasks: Tasks) {
    this.#tasks = tasks
    // printRoutes() shows its name.
    this.#sending = function gracefulSending (_request, reply, payload, done) {
      const exchange = Exchange.of(reply)
      if (exchange !== undefined) {
        exchange.isSending = true
        // Its body is lost, and Fastify answers with the error.
        if (exchange.hasLeft) inFlight.reenter(exchange)
        const stream = webStreamOf(payload)
        // Fastify reads it after the hooks. If no client is left, nothing else shows that they have ended.
        if (stream !== undefined) beforeCall(stream, 'getReader', () => { inFlight.written(exchange) })
      }
      done()
    }
  }

  /** Observes the hooks that other code adds to the instance and its children. */
  observe (fastify: FastifyInstance): void {
    const hooks = this
    const { addHook } = fastify as unknown as { addHook: AddHook }
    const observing: AddHook = function (name, hook) {
      if (BEFORE_END.some(known => known === name)) addHook.call(this, name, hooks.#sending)
      return addHook.call(this, name, name === 'onRequestAbort' ? hooks.#tracked(hook) : hook)
    }
    // Children inherit it.
    Object.assign(fastify, { addHook: observing })
  }

  /** Observes the hooks of a route. */
  observeRoute (route: RouteOptions): void {
    const { onRequestAbort } = route
    for (const name of BEFORE_END) {
      if (route[name] !== undefined) Object.assign(route, { [name]: [this.#sending, ...[route[name]].flat()] })
    }
    if (onRequestAbort !== undefined) Object.assign(route, { onRequestAbort: [onRequestAbort].flat().map(hook => this.#tracked(hook)) })
  }

  /**
   * The drain waits for its promise; a hook with a callback is not waited for. A proxy, because Fastify checks whether the function is
   * async and how many parameters it has.
   */
  #tracked (hook: unknown): unknown {
    // Fastify throws an error for it.
    if (typeof hook !== 'function') return hook
    return new Proxy(hook as Hook, {
      apply: (_hook, instance, args: unknown[]) => {
        const result = Reflect.apply(hook, instance, args) as PromiseLike<unknown>
        // Fastify logs its error.
        const ignore = () => {}
        if (isPlainPromise(result)) this.#tasks.track(result.then(ignore, ignore), `onRequestAbort hook ${nameOf(hook.name)}`.trim())
        return result
      }
    })
  }
}
