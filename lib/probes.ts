// The probes, /health and /ready, for load balancers and orchestrators.

import type { FastifyInstance, FastifyPluginAsync, FastifyReply, RouteOptions } from 'fastify'
import type { GracefulShutdown, ProbeHandler } from '../types/index.ts'
import type { SafeLog } from './lifecycle/log.ts'
import type { PhaseClock } from './lifecycle/phase.ts'
import type { Options, Probe } from './options.ts'
import type { InFlight } from './requests/in-flight.ts'
import { Check } from './check.ts'
import { OptionInvalidError, ProbePathError } from './errors.ts'
import { Exchange, JSON_HEADERS } from './requests/exchange.ts'
import { show } from './values.ts'

const METHODS = ['GET', 'HEAD']

/** How Fastify's router compares paths. Set in `routerOptions`, or beside it, as before Fastify 5.5. */
interface PathOptions {
  caseSensitive?: boolean
  ignoreDuplicateSlashes?: boolean
  ignoreTrailingSlash?: boolean
}

export class Probes implements Pick<GracefulShutdown, 'healthHandler' | 'readyHandler' | 'setReady'> {
  readonly #options: Options
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  readonly #healthChecks: readonly Check[]
  readonly #readyChecks: readonly Check[]
  #isReady = true
  /** Whether a route of their own is being added. */
  #isAdding = false
  readonly #pathOptions: readonly PathOptions[]

  constructor (fastify: FastifyInstance, options: Options, phase: PhaseClock, inFlight: InFlight, log: SafeLog) {
    this.#options = options
    this.#phase = phase
    this.#inFlight = inFlight
    this.#healthChecks = checksOf(options.health, log)
    this.#readyChecks = checksOf(options.ready, log)
    const { initialConfig } = fastify as { initialConfig: PathOptions & { routerOptions?: PathOptions } }
    this.#pathOptions = [initialConfig, { ...initialConfig.routerOptions }]
  }

  readonly #answers = {
    // The state is read after the checks, because it may have changed meanwhile.
    health: async (): Promise<Answer> => {
      const { health } = this.#options
      const checks = await failedOf(this.#isShuttingDown ? [] : this.#healthChecks)
      if (this.#isShuttingDown) return [health === false ? 503 : health.duringShutdown, { status: 'shutting_down' }]
      return checks.length === 0 ? [200, { status: 'healthy' }] : [503, { status: 'unhealthy', checks }]
    },
    ready: async (): Promise<Answer> => {
      const checks = await failedOf(this.#isShuttingDown || !this.#isReady ? [] : this.#readyChecks)
      if (this.#isShuttingDown) return [503, { ready: false, reason: 'shutting_down' }]
      if (!this.#isReady) return [503, { ready: false, reason: 'not_ready' }]
      return checks.length === 0
        ? [200, { ready: true, in_flight_requests: this.#inFlight.count }]
        : [503, { ready: false, reason: 'check_failed', checks }]
    }
  }

  readonly healthHandler: ProbeHandler = async (_request, reply) => await sendAnswer(reply, await this.#answers.health())

  readonly readyHandler: ProbeHandler = async (_request, reply) => await sendAnswer(reply, await this.#answers.ready())

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

  /** @throws ProbePathError if a probe has the path of the other one, or of a route that is there already */
  assertFree (fastify: FastifyInstance): void {
    const { health, ready } = this.#options
    if (health !== false && ready !== false && this.#normalize(health.path) === this.#normalize(ready.path)) {
      throw new ProbePathError('ready', ready.path, 'option "health"', 'ready')
    }
    for (const [option, { path }] of this.#paths) {
      const url = this.#normalize(path)
      if (METHODS.some(method => fastify.hasRoute({ method, url }))) throw new ProbePathError(option, path, 'a route', option)
    }
  }

  /** The path as Fastify's router stores it. `hasRoute()` leaves slashes as they are. */
  #normalize (path: string): string {
    const isOn = (option: keyof PathOptions, value: boolean) => this.#pathOptions.some(({ [option]: given }) => given === value)
    const single = isOn('ignoreDuplicateSlashes', true) ? path.replaceAll(/\/+/g, '/') : path
    const trimmed = isOn('ignoreTrailingSlash', true) ? single.replace(/(?<=.)\/$/, '') : single
    return isOn('caseSensitive', false) ? trimmed.toLowerCase() : trimmed
  }

  /** Adds the routes of the probes, for GET and HEAD; after the plugin's own hooks. */
  route (fastify: FastifyInstance): void {
    const ahead = new Map<string, ProbeRoute>()
    for (const [option, { path: url, guarded, schema, config, logLevel }] of this.#paths) {
      const route = {
        method: 'GET' as const,
        url,
        handler: option === 'health' ? this.healthHandler : this.readyHandler,
        exposeHeadRoute: true,
        ...(schema === undefined ? {} : { schema }),
        // Opted out by config, because an onRoute hook of another plugin may wrap the handler.
        config: { ...config, gracefulShutdown: false as const },
        logLevel: logLevel as 'silent'
      }
      if (guarded) this.#add(fastify, route)
      else ahead.set(url, { route, answer: this.#answers[option] })
    }
    if (ahead.size === 0) return
    // One context for both, because each takes time at the start.
    const routeAhead: FastifyPluginAsync = async context => {
      passDecorations(fastify, context)
      this.#routeAhead(context, ahead)
    }
    // A minified bundle renames functions.
    void fastify.register(Object.assign(routeAhead, { [Symbol.for('fastify.display-name')]: 'fastify-graceful-probes' }))
  }

  #add (context: FastifyInstance, route: RouteOptions): void {
    this.#isAdding = true
    context.route(route)
    this.#isAdding = false
  }

  /**
   * Adds routes that are answered by a hook of their context. Fastify appends to a context the hooks that are registered in its
   * parent later, so they run after this one, as do hooks that earlier onRoute hooks add to a route. Nor do onSend hooks run:
   * they may need what those would have set.
   */
  #routeAhead (context: FastifyInstance, routes: ReadonlyMap<string, ProbeRoute>): void {
    context.addHook('onRequest', (request, reply, done) => {
      const probe = routes.get(request.routeOptions.url as string)
      // An onRoute hook of another plugin has added it to this context.
      if (probe === undefined) {
        done()
        return
      }
      const exchange = Exchange.of(reply) as Exchange
      this.#inFlight.optOut(exchange)
      void probe.answer().then(([status, body]) => { exchange.answer(status, JSON.stringify(body), reply.getHeaders()) })
    })
    for (const { route } of routes.values()) this.#add(context, route)
  }

  /** @throws ProbePathError if a later route has the path of a probe, because Fastify's own error names no option */
  assertNotTaken ({ method, url, constraints }: RouteOptions): void {
    if (this.#isAdding || Object.keys(constraints ?? {}).length > 0) return
    if (![method].flat().some(name => METHODS.includes(name))) return
    const normal = this.#normalize(url)
    for (const [option, { path }] of this.#paths) {
      if (this.#normalize(path) === normal) throw new ProbePathError(option, path, 'a route', option)
    }
  }

  get #paths (): Array<['health' | 'ready', Probe]> {
    const { health, ready } = this.#options
    const all = [['health', health], ['ready', ready]] as const
    return all.filter((entry): entry is ['health' | 'ready', Probe] => entry[1] !== false)
  }
}

/** A status and a body. */
type Answer = [number, object]

interface ProbeRoute {
  route: RouteOptions
  answer: () => Promise<Answer>
}

/** Hooks that are registered later may read what requests and replies are decorated with later, which a context does not inherit. */
function passDecorations (fastify: FastifyInstance, context: FastifyInstance): void {
  for (const kind of ['Request', 'Reply'] as const) {
    const name = `decorate${kind}` as const
    const decorate = fastify[name] as (this: FastifyInstance, ...args: unknown[]) => FastifyInstance
    const decorateBoth: typeof decorate = function (...args) {
      const instance = decorate.apply(this, args)
      // It inherits functions, and an onRegister hook may have decorated it.
      if (this === fastify && !context[`has${kind}Decorator`](args[0] as string)) decorate.apply(context, args)
      return instance
    }
    Object.assign(fastify, { [name]: decorateBoth })
  }
}

async function sendAnswer (reply: FastifyReply, [status, body]: Answer): Promise<FastifyReply> {
  // Serialized here, so that a user's serializer cannot change the body.
  return reply.code(status).headers(JSON_HEADERS).send(JSON.stringify(body))
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
