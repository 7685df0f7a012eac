// The probes, /health and /ready, for load balancers and orchestrators.

import type { FastifyInstance, FastifyReply, RouteOptions } from 'fastify'
import type { GracefulShutdown, ProbeHandler } from '../types/index.ts'
import type { PhaseClock } from './lifecycle/phase.ts'
import type { Options, Probe } from './options.ts'
import type { InFlight } from './requests/in-flight.ts'
import { TIMED_OUT, within } from './clock.ts'
import { OptionInvalidError, ProbePathError } from './errors.ts'
import { show } from './values.ts'

const METHODS = ['GET', 'HEAD']

export class Probes implements Pick<GracefulShutdown, 'healthHandler' | 'readyHandler' | 'setReady'> {
  readonly #options: Options
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  #isReady = true
  /** Whether their own routes have been added. */
  #areRouted = false

  constructor (options: Options, phase: PhaseClock, inFlight: InFlight) {
    this.#options = options
    this.#phase = phase
    this.#inFlight = inFlight
  }

  readonly healthHandler: ProbeHandler = async (_request, reply) => {
    if (this.#isShuttingDown) return await answer(reply, 503, { status: 'shutting_down' })
    const failed = await failedChecks(this.#options.health)
    return failed.length === 0
      ? await answer(reply, 200, { status: 'healthy' })
      : await answer(reply, 503, { status: 'unhealthy', checks: failed })
  }

  readonly readyHandler: ProbeHandler = async (_request, reply) => {
    if (this.#isShuttingDown) return await answer(reply, 503, { ready: false, reason: 'shutting_down' })
    if (!this.#isReady) return await answer(reply, 503, { ready: false, reason: 'not_ready' })
    const failed = await failedChecks(this.#options.ready)
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

  /** Adds the routes of the probes, for GET and HEAD. */
  route (fastify: FastifyInstance): void {
    for (const [option, probe] of this.#paths) {
      if (fastify.hasRoute({ method: 'GET', url: probe.path })) throw new ProbePathError(option, probe.path, 'a route', option)
    }
    for (const [option, { path, logLevel }] of this.#paths) {
      const handler = option === 'health' ? this.healthHandler : this.readyHandler
      // Opted out by config, because an onRoute hook of another plugin may wrap the handler.
      const config = { gracefulShutdown: false } as const
      fastify.route({ method: METHODS, url: path, handler, config, exposeHeadRoute: false, logLevel: logLevel as 'silent' })
    }
    this.#areRouted = true
  }

  /** @throws ProbePathError if a later route has the path of a probe, because Fastify's own error names no option */
  assertNotTaken ({ method, url, constraints }: RouteOptions): void {
    if (!this.#areRouted || Object.keys(constraints ?? {}).length > 0) return
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

/** Runs a probe's checks in parallel. Returns the names of those that failed. */
async function failedChecks (probe: Probe | false): Promise<string[]> {
  if (probe === false) return []
  const outcomes = await Promise.all(Object.entries(probe.checks).map(async ([name, check]) => {
    const outcome = await within(probe.checkTimeout, Promise.resolve().then(check)).catch(() => false)
    return outcome === TIMED_OUT || outcome === false ? [name] : []
  }))
  return outcomes.flat()
}
