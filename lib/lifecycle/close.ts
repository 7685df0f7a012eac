// `fastify.close()`: the whole shutdown.

import type { FastifyInstance } from 'fastify'
import type { PhaseClock } from './phase.ts'
import type { Shutdown } from './shutdown.ts'

export type CloseListener = (error: Error | null, ...args: unknown[]) => unknown

type Close = (listener?: CloseListener) => Promise<void>

/** `fastify.close()`, with a promise or a callback, as in Fastify. */
export function closeWith (shutdown: Shutdown, phase: PhaseClock, fastify: FastifyInstance, close: Close) {
  return function closeGracefully (listener?: CloseListener) {
    if (listener === undefined) {
      return shutdown.close().then(async () => {
        // Fastify's own close waits for the callbacks of earlier calls. Called by one of its hooks, it would wait for itself.
        if (phase.current === 'closed') await close()
      })
    }
    // Fastify reports an argument that is not a function.
    if (typeof listener !== 'function') return close(listener)
    const done = () => {}
    // avvio does not pass the instance to a listener with two parameters.
    const call = (error: Error | null) => {
      const args = listener.length === 2 ? [error, done] : [error, fastify, done]
      ;(listener as (...args: unknown[]) => unknown)(...args.slice(0, listener.length))
    }
    shutdown.close().then(() => {
      if (phase.current === 'closed') void close(listener)
      else call(null)
    }, error => { queueMicrotask(() => { call(error as Error) }) })
    return fastify
  }
}
