// onRequestAbort hooks, which run once the client has gone, perhaps while the handler does.

import type { FastifyInstance } from 'fastify'
import type { Tasks } from './tasks.ts'
import { mapHooks } from '../map-hooks.ts'
import { nameOf } from '../values.ts'
import { isPlainPromise, observePromise } from './thenable.ts'

export class AbortHooks {
  readonly #tasks: Tasks

  constructor (tasks: Tasks) {
    this.#tasks = tasks
  }

  /** Observes the hooks that other code adds to the instance and its children. */
  observeAll (fastify: FastifyInstance): void {
    mapHooks(fastify, 'onRequestAbort', this.observe)
  }

  /**
   * The drain waits for the promise of an async hook, but not for a hook that takes a callback. A proxy, because Fastify checks whether
   * the function is async and how many parameters it has.
   */
  readonly observe = <H extends (...args: never[]) => unknown>(hook: H): H => new Proxy(hook, {
    apply: (_hook, instance, args: unknown[]) => {
      const result = Reflect.apply(hook, instance, args) as PromiseLike<unknown>
      if (isPlainPromise(result)) {
        // Fastify logs its error.
        const ended = new Promise(resolve => { observePromise(result, resolve, resolve) })
        this.#tasks.track(ended, `onRequestAbort hook ${nameOf(hook.name)}`.trim())
      }
      return result
    }
  })
}
