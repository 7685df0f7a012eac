// Hooks that may run when a handler has ended and the client has gone. Fastify runs preSerialization, onSend and onError hooks before
// it ends the response, also if nobody reads that, and onRequestAbort hooks beside the handler.

import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import type { Tasks } from './tasks.ts'
import { isWebStream, nameOf } from '../values.ts'
import { Exchange } from './exchange.ts'
import { isPlainPromise } from './thenable.ts'

const BEFORE_END = ['preSerialization', 'onSend', 'onError'] as const

type Hook = (this: unknown, ...args: unknown[]) => unknown
type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

/** Observes the hooks that other code adds to the instance and its children. */
export function observeLateHooks (fastify: FastifyInstance, tasks: Tasks): void {
  const { addHook } = fastify as unknown as { addHook: AddHook }
  const observing: AddHook = function (name, hook) {
    if (BEFORE_END.some(known => known === name)) addHook.call(this, name, gracefulSending)
    return addHook.call(this, name, name === 'onRequestAbort' ? tracked(hook, tasks) : hook)
  }
  // Children inherit it.
  Object.assign(fastify, { addHook: observing })
}

/** Observes the hooks of a route. */
export function observeLateHooksOf (route: RouteOptions, tasks: Tasks): void {
  const { onRequestAbort } = route
  const hooks = BEFORE_END.flatMap(name => route[name] === undefined ? [] : [[name, [gracefulSending, ...[route[name]].flat()]]])
  Object.assign(route, Object.fromEntries(hooks))
  if (onRequestAbort !== undefined) Object.assign(route, { onRequestAbort: [onRequestAbort].flat().map(hook => tracked(hook, tasks)) })
}

/** Runs before each of these hooks. */
function gracefulSending (_request: FastifyRequest, reply: FastifyReply, payload: unknown, done: () => void): void {
  const exchange = Exchange.of(reply)
  // Nothing reports the end of a web stream that is not sent.
  if (exchange !== undefined) exchange.isSending = !isWebStream(payload)
  done()
}

/** The drain waits for its promise. A proxy, because Fastify looks at the kind of the function and at its number of parameters. */
function tracked (hook: unknown, tasks: Tasks): unknown {
  // Fastify rejects it.
  if (typeof hook !== 'function') return hook
  return new Proxy(hook as Hook, {
    apply: (_hook, instance, args: unknown[]) => {
      const result = Reflect.apply(hook, instance, args) as PromiseLike<unknown>
      // Fastify logs its error.
      const ignore = () => {}
      if (isPlainPromise(result)) void tasks.track(result.then(ignore, ignore), `onRequestAbort hook ${nameOf(hook.name)}`.trim())
      return result
    }
  })
}
