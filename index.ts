// fastify-graceful: lets a Fastify server go away without anyone noticing. This file is the map:
//
//   lib/options.ts      what may be configured, the defaults
//   lib/phase.ts        where a shutdown stands
//   lib/in-flight.ts    who is in flight
//   lib/connections.ts  every open socket and HTTP/2 session
//   lib/socket-list.ts  sockets, in the order in which they came
//   lib/pipeline.ts     the replies under way on one connection
//   lib/servers.ts      every listener
//   lib/web-sockets.ts  the WebSockets of @fastify/websocket
//   lib/gate.ts         what a request meets once a shutdown has started
//   lib/request-body.ts a body that nobody is going to use
//   lib/cuts.ts         who took too long
//   lib/timeouts.ts     read, write and idle timeouts
//   lib/probes.ts       /health and /ready
//   lib/callbacks.ts    cleanup, in order
//   lib/shutdown.ts     the way out, step by step
//   lib/process.ts      signals, uncaught errors, the exit
//   lib/errors.ts       the coded errors; lib/within.ts, a promise with a time limit

import type { FastifyInstance, FastifyReply, RouteOptions, onRequestHookHandler } from 'fastify'
import type { GracefulOptions, GracefulShutdown } from './types/index.ts'
import fp from 'fastify-plugin'
import { Callbacks } from './lib/callbacks.ts'
import { Connections } from './lib/connections.ts'
import { Cuts } from './lib/cuts.ts'
import { AlreadyRegisteredError, TrackInvalidError } from './lib/errors.ts'
import { Gate, isUpgrade } from './lib/gate.ts'
import { InFlight, isPromise } from './lib/in-flight.ts'
import { resolveOptions, resolveRouteOptions, show } from './lib/options.ts'
import { PhaseClock } from './lib/phase.ts'
import { createProbes, routeProbe } from './lib/probes.ts'
import * as process from './lib/process.ts'
import { adoptServers, isOwned } from './lib/servers.ts'
import { Shutdown } from './lib/shutdown.ts'
import { Timeouts } from './lib/timeouts.ts'
import { WebSockets } from './lib/web-sockets.ts'

async function graceful (fastify: FastifyInstance, input: GracefulOptions): Promise<void> {
  if (isOwned(fastify) || fastify.hasDecorator('gracefulShutdown')) throw new AlreadyRegisteredError()
  const options = resolveOptions(input)
  const { log } = fastify

  const phase = new PhaseClock()
  const inFlight = new InFlight(() => connections.replies())
  const connections = new Connections(reply => { inFlight.orphan(reply) }, () => {
    // No load balancer finds the way here any more.
    shutdown.skipDelay()
    void shutdown.start('close')
  })
  const webSockets = new WebSockets()
  const gate = new Gate(phase, connections)
  const cuts = new Cuts(phase, inFlight, log)
  const timeouts = new Timeouts(options, fastify, inFlight, connections, cuts)
  const callbacks = new Callbacks(options.shutdownTimeout)
  const probes = createProbes(options.health, options.ready, phase, inFlight)

  adoptServers(fastify, server => {
    timeouts.apply(server)
    connections.adopt(server)
    // Not onListen: that runs after Fastify has told the world that it listens, too late for a signal that comes at once.
    server.on('listening', () => {
      if (phase.current !== 'running') return
      timeouts.start()
      process.join(member)
    })
  })

  // The hot path: each request goes through these two. A WebSocket's upgrade is gated like a request, but its
  // connection is none: it does not count.
  fastify.addHook('onRequest', function gracefulOnRequest (request, reply, done) {
    const isRequest = !isUpgrade(request.raw)
    let isOnConnection = false
    if (isRequest) {
      isOnConnection = connections.opened(reply)
    } else {
      connections.upgraded(reply)
      webSockets.opened(request.server)
    }
    if (phase.current !== 'running' && !gate.admits(request, reply)) return
    if (isRequest) inFlight.enter(reply, isOnConnection)
    done()
  })
  fastify.addHook('onResponse', function gracefulOnResponse (_request, reply, done) {
    inFlight.responded(reply, connections.ended(reply))
    done()
  })

  // A route's own settings are applied by a hook on that route, so that the others pay nothing for them.
  fastify.addHook('onRoute', route => {
    const { handler } = route
    const isProbe = handler === probes.healthHandler || handler === probes.readyHandler
    const own = isProbe ? false : resolveRouteOptions(route.url, route.config?.gracefulShutdown)
    if (own === false) {
      route.config = { ...route.config, gracefulShutdown: false }
      prependOnRequest(route, reply => { inFlight.leave(reply) })
      return
    }
    route.handler = inFlight.observe(handler)
    const { writeTimeout } = own
    if (writeTimeout === undefined) return
    timeouts.noteRoute(writeTimeout)
    prependOnRequest(route, reply => { timeouts.setFor(reply, writeTimeout) })
  })
  routeProbe(fastify, 'health', options.health, probes.healthHandler)
  routeProbe(fastify, 'ready', options.ready, probes.readyHandler)

  const root = rootOf(fastify)
  const close = root.close.bind(root) as () => Promise<void>
  const member: process.Member = {
    signals: options.signals,
    shutdownTimeout: options.shutdownTimeout,
    log,
    shutdown: async reason => await shutdown.start(reason),
    fail: error => { shutdown.fail(error) },
    exit: () => shutdown.exit()
  }
  const release = () => {
    timeouts.stop()
    process.leave(member)
  }
  const { isClusterWorker } = process
  const shutdown = new Shutdown({
    options, log, phase, inFlight, connections, webSockets, cuts, gate, callbacks, isClusterWorker, close, release
  })

  fastify.addHook('onListen', done => {
    // Fastify goes on with a listen() that was under way when it was closed.
    if (phase.current === 'closing' || phase.current === 'closed') connections.stopListening()
    done()
  })

  // One way out: whoever closes the instance shuts it down, and waits for all of it.
  root.close = closeWith(shutdown, root, close) as typeof root.close
  // A `close` that somebody kept from before still comes by here, ahead of Fastify's own closing.
  const beforeFastify = async () => { await shutdown.drained() }
  fastify.addHook('onClose', beforeFastify)
  fastify.addHook('onReady', done => {
    // Only a handler that is added now runs ahead of Fastify's, which answers everything with its own 503.
    (fastify as unknown as { onClose: (handler: () => Promise<void>) => void }).onClose(beforeFastify)
    done()
  })

  const controller: GracefulShutdown = {
    get phase () { return phase.current },
    get signal () { return phase.signal },
    onShutdown: (callback, callbackOptions) => { callbacks.register(callback, callbackOptions) },
    shutdown: async (reason = 'shutdown') => await shutdown.start(reason),
    skipDelay: () => { shutdown.skipDelay() },
    wait: async () => await shutdown.wait(),
    inFlight: () => inFlight.list(),
    track: (promise, name = 'task') => {
      if (!isPromise(promise)) throw new TrackInvalidError(show(promise))
      return inFlight.track(promise, name)
    },
    ...probes
  }
  fastify.decorate('gracefulShutdown', Object.freeze(controller))
  fastify.decorate('registerShutdownCallback', controller.onShutdown)
  fastify.decorate('isShuttingDown', { getter: () => phase.current !== 'running' })
  fastify.decorate('inFlightRequests', { getter: () => inFlight.count })
}

function prependOnRequest (route: RouteOptions, apply: (reply: FastifyReply) => void): void {
  const hook: onRequestHookHandler = (_request, reply, done) => {
    apply(reply)
    done()
  }
  route.onRequest = [hook, ...[route.onRequest ?? []].flat()]
}

/** The instance that owns `close`; the others of the same server inherit it. */
function rootOf (fastify: FastifyInstance): FastifyInstance {
  let instance = fastify
  while (!Object.hasOwn(instance, 'close')) instance = Object.getPrototypeOf(instance) as FastifyInstance
  return instance
}

/** `fastify.close()`, as a promise or with a callback, as Fastify has it. */
function closeWith (shutdown: Shutdown, root: FastifyInstance, close: () => Promise<void>) {
  return function closeGracefully (listener?: (error: Error | null, instance: FastifyInstance, done: () => void) => void) {
    if (listener === undefined) return shutdown.close()
    // Fastify complains of what is not a function.
    if (typeof listener !== 'function') return (close as (listener: unknown) => unknown)(listener)
    const done = () => {}
    shutdown.close().then(() => { listener(null, root, done) }, error => { listener(error as Error, root, done) })
    return root
  }
}

const plugin = fp(graceful, { name: 'fastify-graceful', fastify: '5.x' })

export { plugin as default, plugin as gracefulPlugin, plugin as 'module.exports' }
export type * from './types/index.ts'
