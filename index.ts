// fastify-graceful: graceful shutdown for Fastify. This is the map, in the order in which a request, and then a signal,
// passes through the files.
//
//   lib/options.ts               options, defaults, validation
//   lib/requests/                what is being served
//     exchange.ts                  a request and its response, and how HTTP/1 and HTTP/2 requests differ
//     routes.ts                    the handlers of each route
//     last-response.ts             headers of the last response on a connection
//     in-flight.ts                 the requests in flight; decides when a request is over
//     handlers.ts, handler-call.ts the wrappers of handlers and replies; whether a handler is done
//     late-hooks.ts                async hooks that run once a response has been sent, or the client has disconnected
//     tasks.ts, thenable.ts        background work; user promises and thenables
//     handshakes.ts                'upgrade' and 'connect' listeners that have not answered
//     gate.ts, body.ts             refuses requests during a shutdown; drops unused request bodies
//     timeouts.ts                  read, write and idle timeouts
//     cut.ts, describe.ts          ends requests in their handler's place; describes them in log and report
//   lib/connections/             over which connections
//     servers.ts                   every listener; Fastify's listen()
//     connection.ts, ending.ts     one connection and its pipeline; which side has closed it
//     sockets.ts                   all connections, and when to close them
//     upgraded.ts, spread.ts       the WebSockets of @fastify/websocket; closes long-lived connections one after another
//   lib/lifecycle/               how far the shutdown is
//     phase.ts                     running, delaying, draining, closing, closed
//     abort.ts                     abort signals for user code
//     shutdown.ts                  the shutdown, step by step
//     close.ts                     fastify.close()
//     close-hooks.ts               the preClose and onClose hooks of other plugins
//     callbacks.ts, report.ts      cleanup, in order; what was cut or failed
//     channels.ts                  what happens, on diagnostics channels
//     process.ts, log.ts           signals, uncaught errors, the exit; a log that never throws
//   lib/probes.ts, check.ts      /health and /ready; a check behind them
//   lib/times.ts, clock.ts       every time constant; timers that a test suite cannot replace
//   lib/errors.ts, values.ts     the coded errors; conversion of any value that a user throws or passes
//   lib/before-call.ts           wraps or replaces a method of an object of other code
//   lib/map-hooks.ts             changes the hooks that other code adds
//   lib/subscription.ts          a subscriber of one of Node's diagnostics channels
//   lib/deferred.ts              a promise that other code settles
//   types/index.ts               the public types, and what the plugin adds to Fastify's
//
// Two more entries of the package, which this file does not load, are built on the public interface of all this:
//   lib/prometheus.ts            fastify-graceful/prometheus: metrics
//   lib/testing/                 fastify-graceful/testing: tests of a shutdown

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { GracefulOptions, GracefulShutdown } from './types/index.ts'
import fp from 'fastify-plugin'
import { adoptServers, assertNotShared, isOwned, observeListen } from './lib/connections/servers.ts'
import { Connections } from './lib/connections/sockets.ts'
import { WebSockets } from './lib/connections/upgraded.ts'
import { AlreadyRegisteredError, DecoratorTakenError, NotRootError } from './lib/errors.ts'
import { Callbacks } from './lib/lifecycle/callbacks.ts'
import { Channels } from './lib/lifecycle/channels.ts'
import { closeWith, type Close } from './lib/lifecycle/close.ts'
import { CloseHooks } from './lib/lifecycle/close-hooks.ts'
import { SafeLog } from './lib/lifecycle/log.ts'
import { PhaseClock } from './lib/lifecycle/phase.ts'
import { assertNode, joinProcess, leaveProcess } from './lib/lifecycle/process.ts'
import { Outcome } from './lib/lifecycle/report.ts'
import { Shutdown } from './lib/lifecycle/shutdown.ts'
import { mapHooks } from './lib/map-hooks.ts'
import { kSignals, perhapsSeconds, resolveOptions } from './lib/options.ts'
import { Probes } from './lib/probes.ts'
import { Cuts } from './lib/requests/cut.ts'
import { Exchange, isUpgrade, kExchange } from './lib/requests/exchange.ts'
import { Gate } from './lib/requests/gate.ts'
import { Handlers } from './lib/requests/handlers.ts'
import { Handshakes } from './lib/requests/handshakes.ts'
import { InFlight } from './lib/requests/in-flight.ts'
import { LATE_HOOKS, LateHooks } from './lib/requests/late-hooks.ts'
import { observeRoutes } from './lib/requests/routes.ts'
import { Tasks } from './lib/requests/tasks.ts'
import { Timeouts } from './lib/requests/timeouts.ts'

const DECORATORS = ['gracefulShutdown', 'registerShutdownCallback', 'isShuttingDown', 'inFlightRequests']

async function graceful (fastify: FastifyInstance, input: GracefulOptions): Promise<void> {
  assertNode()
  if (isOwned(fastify)) throw new AlreadyRegisteredError()
  const taken = DECORATORS.find(name => fastify.hasDecorator(name))
  if (taken !== undefined) throw new DecoratorTakenError(taken, DECORATORS.join(', '))
  // `close` is an own property of the root instance; child contexts inherit it.
  if (!Object.hasOwn(fastify, 'close')) throw new NotRootError()
  assertNotShared(fastify)
  const options = resolveOptions(input)

  const log = new SafeLog(fastify.log)
  const channels = new Channels(fastify)
  const phase = new PhaseClock()
  const outcome = new Outcome()
  const inFlight = new InFlight(fastify.log)
  const handlers = new Handlers(inFlight)
  const tasks = new Tasks((name, error) => {
    // A failure before the shutdown does not make it unclean.
    if (phase.current !== 'running') outcome.addError(error)
    log.error(`Background work failed: ${name}`, { err: error })
  })
  const lateHooks = new LateHooks(inFlight, tasks)
  const connections = new Connections(inFlight, phase)
  const handshakes = new Handshakes(tasks, connections, fastify.log)
  const webSockets = new WebSockets()
  const gate = new Gate(inFlight, channels)
  const cuts = new Cuts(phase, inFlight, tasks, outcome, log, channels)
  const timeouts = new Timeouts(options, fastify, inFlight, handshakes, connections, cuts, log)
  const closeHooks = new CloseHooks(fastify, (hook, error) => {
    if (outcome.addError(error)) log.error(`The ${hook} failed`, { err: error })
  })
  const callbacks = new Callbacks(options.shutdownTimeout, log, channels)
  const probes = new Probes(fastify, options, phase, inFlight, log)
  probes.assertFree(fastify)
  observeRoutes(fastify, probes, handlers, lateHooks, timeouts)
  fastify.decorateReply(kExchange, undefined)
  for (const name of LATE_HOOKS) mapHooks(fastify, name, hook => lateHooks.observe(name, hook))
  handlers.observeReplies(fastify)
  handlers.observeSetters(fastify)

  const close = fastify.close.bind(fastify) as Close
  const shutdown = new Shutdown({
    options, log, channels, phase, outcome, inFlight, tasks, connections, webSockets, cuts, gate, timeouts, closeHooks, callbacks, close
  })

  const enter = (request: FastifyRequest, reply: FastifyReply) => {
    // Its response may have ended, and onResponse have run, while another plugin's hook held it. Or `fastify.routing` gets it once more.
    const known = Exchange.of(reply) ?? (connections.reports(request.raw) ? inFlight.find(reply.raw) : undefined)
    const exchange = known ?? connections.arrive(request.raw, reply.raw)
    timeouts.start(false)
    exchange.attach(reply)
    if (!isUpgrade(request.raw)) return exchange
    inFlight.arriveUpgrade(exchange, reply)
    handshakes.end(request.raw)
    webSockets.opened(request.server)
    return exchange
  }
  /** A hook registered before the plugin has answered, or the client has disconnected while the hook runs. */
  const answeredAhead = (reply: FastifyReply) => {
    const exchange = inFlight.attach(reply)
    if (exchange !== undefined && phase.current !== 'running') gate.noteAnsweredAhead(exchange)
    return exchange
  }
  // V8 inlines a hook into Fastify's code only if it is short, so rare cases are in separate functions.
  fastify.addHook('onRequest', function gracefulOnRequest (request, reply, done) {
    // Usually, Node has reported the request already.
    const exchange = inFlight.attach(reply) ?? enter(request, reply)
    if (phase.current === 'running' || gate.admits(exchange)) done()
  })
  fastify.addHook('onResponse', function gracefulOnResponse (_request, reply, done) {
    const exchange = Exchange.of(reply) ?? answeredAhead(reply)
    if (exchange !== undefined) {
      inFlight.responded(exchange)
      connections.responded(exchange)
    }
    done()
  })
  // Before the instance's `close` is replaced: if this throws, it still closes as it does without the plugin.
  probes.route(fastify)

  // Fastify passes upgrades of the second server for `localhost` to this one.
  handshakes.observe(fastify.server)
  adoptServers(fastify, server => {
    timeouts.apply(server)
    // Only Fastify closes the second server for `localhost`: after the first one, or if that is unref()ed.
    connections.adopt(server, async isAwaited => {
      if (server === fastify.server) await shutdown.serverClosed(isAwaited)
    })
    // Not onListen: it runs after Fastify logs its address, and a signal may arrive before that.
    server.on('listening', () => {
      if (phase.current !== 'running') return
      timeouts.start(true)
      joinProcess(shutdown.member)
    })
    // As supertest does after each request, for a server that the application itself has opened.
    server.on('close', () => { if (phase.current === 'running' && !connections.isListening) leaveProcess(shutdown.member) })
  })

  fastify.addHook('onListen', done => {
    for (const [name, value] of perhapsSeconds(options)) {
      log.warn(`Option ${name} is ${value} ms: times are in milliseconds. For ${value} s, set it to ${value * 1_000}`)
    }
    done()
  })

  // Whatever closes the instance runs the whole shutdown and waits for its end.
  fastify.close = closeWith(shutdown, phase, fastify, close) as typeof fastify.close
  observeListen(fastify, (isShared, ended) => { connections.listenCalled(isShared, ended) }, () => { shutdown.isListenAborted = true })
  // Other code may call the original `close`, which it has kept, or read before the plugin was loaded.
  closeHooks.shutdown = shutdown
  fastify.addHook('onClose', async () => { await shutdown.afterClose() })

  const controller: GracefulShutdown & { [kSignals]: unknown } = {
    [kSignals]: options.signals,
    get phase () { return phase.current },
    get signal () { return phase.signal },
    onShutdown: (callback, callbackOptions) => { callbacks.register(callback, callbackOptions) },
    shutdown: async reason => await shutdown.join(reason),
    skipDelay: () => { shutdown.skipDelay() },
    wait: async () => await shutdown.wait(),
    inFlight: () => [...inFlight.list(), ...tasks.list()],
    track: ((work: unknown, name: unknown = 'task') => tasks.track(work, name, phase.signal)) as GracefulShutdown['track'],
    setReady: probes.setReady,
    healthHandler: probes.healthHandler,
    readyHandler: probes.readyHandler
  }
  fastify.decorate('gracefulShutdown', Object.freeze(controller))
  fastify.decorate('registerShutdownCallback', controller.onShutdown)
  fastify.decorate('isShuttingDown', { getter: () => phase.current !== 'running' })
  fastify.decorate('inFlightRequests', { getter: () => inFlight.count })
}

/** The plugin, for `fastify.register()`: first, and in the root instance. */
const plugin = fp(graceful, { name: 'fastify-graceful', fastify: '5.x' })

// main.cjs exports it for CommonJS and ES modules.
export { plugin as default, plugin as gracefulPlugin }
export type * from './types/index.ts'
