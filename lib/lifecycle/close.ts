// `fastify.close()`: the whole shutdown.

import type { FastifyInstance } from 'fastify'
import type { PhaseClock } from './phase.ts'
import type { Shutdown } from './shutdown.ts'
import { Deferred } from '../deferred.ts'

type CloseListener = (error: Error | null, ...args: unknown[]) => unknown

/** As Fastify's own: its types lack the listener's other arguments. */
export type Close = (listener?: CloseListener) => Promise<void>

/** `fastify.close()`, with a promise or a callback, as in Fastify: each call waits until the callbacks of earlier calls are done. */
export function closeWith (shutdown: Shutdown, phase: PhaseClock, fastify: FastifyInstance, close: Close) {
  /** The callbacks of earlier calls. */
  let called: Promise<unknown> = Promise.resolve()
  const closeInTurn = async () => {
    const before = called
    try {
      await shutdown.close()
    } finally {
      // Not if a hook or callback of the shutdown calls it, for which they wait.
      if (phase.current === 'closed') await before
    }
    // Other code may have passed callbacks to Fastify's own close.
    if (phase.current === 'closed') await close()
  }
  return function closeGracefully (listener?: CloseListener) {
    // Fastify reports an argument that is not a function.
    if (listener !== undefined && typeof listener !== 'function') return close(listener)
    if (listener === undefined) return closeInTurn()
    // Before anything is closed: to read the length of a proxy may throw. Fastify also throws at once for a revoked one.
    const { length } = listener
    const call = async (error: Error | null) => { await callListener(listener, length, error, fastify) }
    const closed = closeInTurn()
    called = Promise.all([called, closed.then(async () => { await call(null) }, call)])
    return fastify
  }
}

/**
 * As avvio does: it does not pass the instance to a listener with two parameters, and ignores the rejection of one without a `done`.
 * Resolves when the listener is done, or has thrown: outside of the promise, so that the error is uncaught.
 */
async function callListener (listener: CloseListener, length: number, error: Error | null, fastify: FastifyInstance): Promise<void> {
  const { promise, resolve } = new Deferred<void>()
  process.nextTick(() => {
    const args = length === 2 ? [error, resolve] : [error, fastify, resolve]
    let result: unknown
    try {
      result = (listener as (...given: unknown[]) => unknown)(...args.slice(0, length))
    } catch (thrown) {
      resolve()
      throw thrown
    }
    if (length < 2) Promise.resolve(result).then(() => { resolve() }, () => { resolve() })
  })
  await promise
}
