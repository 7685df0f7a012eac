// The listeners of a Fastify instance: `fastify.server`, and the second server that Fastify binds for `localhost` (127.0.0.1
// and ::1) and does not expose.

import type { FastifyInstance } from 'fastify'
import type { ListenOptions, Server } from 'node:net'
import type { AnyFunction } from '../values.ts'
import cluster from 'node:cluster'
import { errorMonitor, type EventEmitter } from 'node:events'
import { beforeCall } from '../before-call.ts'
import { clearTimeout, setTimeout } from '../clock.ts'
import { Deferred } from '../deferred.ts'
import { ServerSharedError } from '../errors.ts'
import { Subscription } from '../subscription.ts'
import { LISTEN_TIMEOUT } from '../times.ts'

/** What to call when a server is about to listen. The key is the request listener: an instance's servers share it, if none wraps it. */
const onListen = new WeakMap<object, (server: Server, options: ListenOptions) => void>()
/** The servers that have been adopted. */
const adopted = new WeakSet<Server>()

/** Node publishes each server that is about to listen. */
const listens = new Subscription('tracing:net.server.listen:asyncStart', message => {
  const { server, options } = message as { server: Server, options: ListenOptions }
  for (const listener of server.listeners('request')) onListen.get(listener)?.(server, options)
})

/** Whether the instance's servers are already owned. */
export function isOwned (fastify: FastifyInstance): boolean {
  return onListen.has(fastify.routing)
}

/** @throws ServerSharedError if another instance has the same server: closing it for one would cut off the other */
export function assertNotShared (fastify: FastifyInstance): void {
  if (adopted.has(fastify.server)) throw new ServerSharedError()
}

/**
 * Passes each server of the instance to `adopt` before it listens. Not a server that the application itself creates for
 * `fastify.routing`: Fastify leaves it open, too.
 */
export function adoptServers (fastify: FastifyInstance, adopt: (server: Server) => void): void {
  const take = (server: Server) => {
    adopted.add(server)
    adopt(server)
  }
  onListen.set(fastify.routing, (server, options) => { if (server !== fastify.server && isFastifys(options)) take(server) })
  take(fastify.server)
}

/** Whether Fastify's own listen() passes this to Node: options with `cb`. The application itself may open the server, too. */
function isFastifys (options: unknown): options is ListenOptions {
  return typeof options === 'object' && options !== null && 'cb' in options
}

/** Fastify's types lack some of it. */
interface ListenInput {
  signal?: Partial<AbortSignal>
  fd?: unknown
  reusePort?: unknown
  exclusive?: unknown
}

/**
 * Calls back before each call of Fastify's `listen()`, and when the signal given to it is aborted.
 * @param called `isShared`: whether new connections go to another process once this one has stopped listening; `ended` resolves when that
 * call has ended, whether it fails or not
 * @param onAborted is called before Fastify's own listener, which closes the instance
 */
export function observeListen (
  fastify: FastifyInstance, called: (isShared: boolean, ended: Promise<void>) => void, onAborted: () => void
): void {
  const { server } = fastify
  const { listen } = fastify as unknown as { listen: AnyFunction }
  let hasBeenCalled = false
  let end = () => {}
  let release = () => {}
  beforeCall(server, 'listen', options => {
    if (!isFastifys(options)) return
    if (options.host === 'localhost') {
      // Fastify then opens the second server.
      listens.hold(server)
      release = atFirstOf(['close', errorMonitor], server, () => { listens.release(server) })
    }
    // A listen() before the plugin was loaded takes effect when Fastify is ready.
    if (hasBeenCalled) return
    const { promise, resolve } = new Deferred<void>()
    end = endOfListen(server, options, resolve)
    // Fastify's own listener for an abort has been added already.
    called(isShared(options as ListenInput), promise)
  })
  fastify.addHook('onListen', done => {
    release()
    end()
    done()
  })
  const observed = (...args: unknown[]) => {
    hasBeenCalled = true
    const { promise: ended, resolve: settle } = new Deferred<void>()
    const [options, callback] = args
    const input = (options ?? {}) as ListenInput
    // One listener: several instances may have the same signal, and Node warns of more than ten.
    input.signal?.addEventListener?.('abort', () => {
      onAborted()
      // Fastify only closes the instance, or Node the server: then the callback is not called.
      if (!fastify.server.listening) settle()
    }, { once: true })
    if (input.signal?.aborted === true) settle()
    called(isShared(input), ended)
    try {
      if (typeof callback !== 'function') return whenSettled(listen.apply(fastify, args), settle)
      // A proxy, so that Fastify still warns of an async function.
      const apply: ProxyHandler<AnyFunction>['apply'] = (target, self, results) => {
        settle()
        return Reflect.apply(target, self, results)
      }
      return listen.call(fastify, options, new Proxy(callback as AnyFunction, { apply }))
    } catch (error) {
      settle()
      throw error
    }
  }
  Object.assign(fastify, { listen: observed })
}

/**
 * Calls back when a server listens, has failed to, or is closed. On `localhost`, Fastify then opens a second one, and runs onListen hooks,
 * unless its callback throws. Returns a function that does the same at once.
 */
function endOfListen (server: EventEmitter, { host }: ListenOptions, callback: () => void): () => void {
  const events = host === 'localhost' ? ['close', errorMonitor] : ['listening', 'close', errorMonitor]
  const end = atFirstOf(events, server, () => {
    clearTimeout(timer)
    callback()
  })
  const timer = setTimeout(end, LISTEN_TIMEOUT.most).unref()
  return end
}

/** Calls back at the first of these events. Returns a function that does so at once. */
function atFirstOf (events: ReadonlyArray<string | symbol>, server: EventEmitter, callback: () => void): () => void {
  const end = () => {
    for (const event of events) server.off(event, end)
    callback()
  }
  // Before Fastify's own listener, which may throw.
  for (const event of events) server.prependOnceListener(event, end)
  return end
}

/** With `fd`, the parent process keeps the listener open, as systemd does. */
function isShared ({ fd, reusePort, exclusive }: ListenInput): boolean {
  return typeof fd === 'number' || reusePort === true || (cluster.isWorker && exclusive !== true)
}

/** Returned in place of `result`: a handler added to that would hide a rejection that the application does not handle. */
async function whenSettled (result: unknown, settled: () => void): Promise<unknown> {
  try {
    return await result
  } finally {
    settled()
  }
}
