// `fastify.close()`: the whole shutdown.

import type { FastifyInstance } from 'fastify'
import type { PhaseClock } from './phase.ts'
import type { Shutdown } from './shutdown.ts'

export type CloseListener = (error: Error | null, ...args: unknown[]) => unknown

type Close = (listener?: CloseListener) => Promise<void>

/** `fastify.close()`, with a promise or a callback, as in Fastify. */
export function closeWith (shutdown: Shutdown, phase: PhaseClock, fastify: FastifyInstance, close: Close) {
  return function closeGracefully (listener?: CloseListener) {
    // Fastify reports an argument that is not a function.
    if (listener !== undefined && typeof listener !== 'function') return close(listener)
    const closed = shutdown.close().then(async () => {
      // Fastify's own close waits for the callbacks of earlier calls. Called by one of its hooks, it would wait for itself.
      if (phase.current === 'closed') await close()
    })
    if (listener === undefined) return closed
    // Outside of the promise, so that an error that it throws is uncaught.
    const call = (error: Error | null) => { process.nextTick(callListener, listener, error, fastify) }
    closed.then(() => { call(null) }, call)
    return fastify
  }
}

/** As avvio does: it does not pass the instance to a listener with two parameters, and ignores the rejection of one without a `done`. */
function callListener (listener: CloseListener, error: Error | null, fastify: FastifyInstance): void {
  const done = () => {}
  const args = listener.length === 2 ? [error, done] : [error, fastify, done]
  const result = (listener as (...args: unknown[]) => unknown)(...args.slice(0, listener.length))
  if (listener.length < 2) Promise.resolve(result).catch(() => {})
}
