// The probes, /health and /ready, for load balancers and orchestrators.

import type { FastifyInstance, FastifyReply, RouteOptions } from 'fastify'
import type { GracefulShutdown, ProbeHandler } from '../types/index.ts'
import type { SafeLog } from './lifecycle/log.ts'
import type { PhaseClock } from './lifecycle/phase.ts'
import type { Options, Probe } from './options.ts'
import type { InFlight } from './requests/in-flight.ts'
import { Check } from './check.ts'
import { OptionInvalidError, ProbePathError } from './errors.ts'
import { Exchange } from './requests/exchange.ts'
import { show } from './values.ts'

const METHODS = ['GET', 'HEAD']

export class Probes implements Pick<GracefulShutdown, 'healthHandler' | 'readyHandler' | 'setReady'> {
  readonly #options: Options
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  readonly #healthChecks: readonly Check[]
  readonly #readyChecks: readonly Check[]
  #isReady = true
  /** Whether a route of their own is being added. */
  #isAdding = false

  constructor (options: Options, phase: PhaseClock, inFlight: InFlight, log: SafeLog) {
    this.#options = options
    this.#phase = phase
    this.#inFlight = inFlight
    this.#healthChecks = checksOf(options.health, log)
    this.#readyChecks = checksOf(options.ready, log)
  }

  readonly healthHandler: ProbeHandler = async (_request, reply) => {
    const { health } = this.#options
    if (this.#isShuttingDown) return await answer(reply, health === false ? 503 : health.duringShutdown, { status: 'shutting_down' })
    const failed = await failedOf(this.#healthChecks)
    return failed.length === 0
      ? await answer(reply, 200, { status: 'healthy' })
      : await answer(reply, 503, { status: 'unhealthy', checks: failed })
  }

  readonly readyHandler: ProbeHandler = async (_request, reply) => {
    if (this.#isShuttingDown) return await answer(reply, 503, { ready: false, reason: 'shutting_down' })
    if (!this.#isReady) return await answer(reply, 503, { ready: false, reason: 'not_ready' })
    const failed = await failedOf(this.#readyChecks)
    return failed.length === 0
      ? await answer(reply, 200, { ready: true, in_flight_requests: this.#inFlight.count })
      : await answer(reply, 503, { ready: false, reason: 'check_failed', checks: failed })
  }

  readonly setReady = (value: boolean): void => {
    if (typeof value !== 'boolean') throw new OptionInvalidError('argument of setReady()', show(value), 'true or false')
    this.#isReady = value
  }

  get #isShuttingDown (): boolean {
    return this.#phase.current !== 'running'
  }

  /** Whether this is the handler of a probe, wherever it is mounted. */
  isHandler (handler: unknown): boolean {
    return handler === this.healthHandler || handler === this.readyHandler
  }

  /** @throws ProbePathError if a probe has the path of a route that is there already */
  assertFree (fastify: FastifyInstance): void {
    for (const [option, { path: url }] of this.#paths) {
      if (METHODS.some(method => fastify.hasRoute({ method, url }))) throw new ProbePathError(option, url, 'a route', option)
    }
  }

  /** Adds the routes of the probes, for GET and HEAD; after the plugin's own hooks. */
  route (fastify: FastifyInstance): void {
    for (const [option, { path: url, guarded, schema, config, logLevel }] of this.#paths) {
      const handler = option === 'health' ? this.healthHandler : this.readyHandler
      const route = {
        method: 'GET' as const,
        url,
        handler,
        exposeHeadRoute: true,
        ...(schema === undefined ? {} : { schema }),
        // Opted out by config, because an onRoute hook of another plugin may wrap the handler.
        config: { ...config, gracefulShutdown: false as const },
        logLevel: logLevel as 'silent'
      }
      if (guarded) this.#add(fastify, route)
      else void fastify.register(async context => { this.#routeAhead(context, route) })
    }
  }

  #add (context: FastifyInstance, route: RouteOptions): void {
    this.#isAdding = true
    context.route(route)
    this.#isAdding = false
  }

  /**
   * Adds a route that is answered by a hook of its context. Fastify appends to a context the hooks that are registered in its
   * parent later, so they run after this one, as do hooks that earlier onRoute hooks add to the route.
   */
  #routeAhead (context: FastifyInstance, route: RouteOptions & { handler: ProbeHandler }): void {
    context.addHook('onRequest', async (request, reply) => {
      this.#inFlight.optOut(Exchange.of(reply) as Exchange)
      return await route.handler(request, reply)
    })
    this.#add(context, route)
  }

  /** @throws ProbePathError if a later route has the path of a probe, because Fastify's own error names no option */
  assertNotTaken ({ method, url, constraints }: RouteOptions): void {
    if (this.#isAdding || Object.keys(constraints ?? {}).length > 0) return
    if (![method].flat().some(name => METHODS.includes(name))) return
    for (const [option, { path }] of this.#paths) if (url === path) throw new ProbePathError(option, path, 'a route', option)
  }

  get #paths (): Array<['health' | 'ready', Probe]> {
    const { health, ready } = this.#options
    const all = [['health', health], ['ready', ready]] as const
    return all.filter((entry): entry is ['health' | 'ready', Probe] => entry[1] !== false)
  }
}

async function answer (reply: FastifyReply, status: number, body: object): Promise<FastifyReply> {
  // Serialized here, so that a user's serializer cannot change the body.
  return reply.code(status).header('cache-control', 'no-store').type('application/json; charset=utf-8').send(JSON.stringify(body))
}

function checksOf (probe: Probe | false, log: SafeLog): Check[] {
  if (probe === false) return []
  return Object.entries(probe.checks).map(([name, check]) => new Check(name, check, probe.checkTimeout, log))
}

/** Runs checks side by side. Returns the names of those that fail. */
async function failedOf (checks: readonly Check[]): Promise<string[]> {
  const outcomes = await Promise.all(checks.map(async check => await check.passes() ? [] : [check.name]))
  return outcomes.flat()
}
