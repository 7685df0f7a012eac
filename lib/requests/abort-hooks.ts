// onRequestAbort hooks, which run once the client has gone, perhaps while the handler does.

import type { AnyFunction } from '../values.ts'
import type { Tasks } from './tasks.ts'
import { nameOf } from '../values.ts'
import { isPlainPromise, observePromise } from './thenable.ts'

/**
 * The drain waits for the promise of an async hook, but not for a hook that takes a callback. A proxy, because Fastify checks whether
 * the function is async and how many parameters it has.
 */
export function observeAbortHook (hook: AnyFunction, tasks: Tasks): AnyFunction {
  return new Proxy(hook, {
    apply: (_hook, instance, args: unknown[]) => {
      const result = Reflect.apply(hook, instance, args) as PromiseLike<unknown>
      if (isPlainPromise(result)) {
        // Fastify logs its error.
        const ended = new Promise(resolve => { observePromise(result, resolve, resolve) })
        tasks.track(ended, `onRequestAbort hook ${nameOf(hook.name)}`.trim())
      }
      return result
    }
  })
}
