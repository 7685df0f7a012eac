import t from 'tap'
import { createServer } from 'node:http'
import { Writable } from 'node:stream'
import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import autoload from '@fastify/autoload'
import Fastify from 'fastify'
import { Registry } from 'prom-client'
import { signalEvents } from 'close-with-grace/events/signal.events.js'
import { errorEvents } from 'close-with-grace/events/error.events.js'
import { exitEvents } from 'close-with-grace/events/exit.events.js'
import gracefulPlugin from '../index.ts'
import {
  CRASH_SIGNALS, DEFAULTS, PROCESS_EVENTS, resolveCallbackOptions, resolveMetricsOptions, resolveOptions, resolveRouteOptions
} from '../lib/options.ts'
import { show } from '../lib/values.ts'
import { createApp, Deferred, expectWarnings, listen, RawClient } from './helpers.ts'
import type { FastifyServerOptions } from 'fastify'
import type { GracefulOptions } from '../types/index.ts'

interface CodedError extends Error { code: string }

async function registrationError (options: unknown): Promise<CodedError> {
  const app = Fastify()
  try {
    await app.register(gracefulPlugin, options as object)
  } catch (error) {
    return error as CodedError
  } finally {
    await app.close().catch(() => {})
  }
  throw new Error(`registered with ${JSON.stringify(options)}`)
}

t.test('has the documented defaults', async t => {
  const { given, health, ready, signals, ...rest } = resolveOptions({})
  t.strictSame(rest, {
    shutdownTimeout: 30_000,
    drainTimeout: 25_000,
    shutdownDelay: { max: 0, quiet: 0 },
    spread: 0,
    readTimeout: 10_000,
    writeTimeout: 10_000,
    idleTimeout: 120_000
  })
  t.equal(given.size, 0)
  t.strictSame(signals, ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'uncaughtException', 'unhandledRejection'])
  t.match(health, { path: '/health', checks: {}, checkTimeout: 1_000 })
  t.match(ready, { path: '/ready', checks: {}, checkTimeout: 1_000 })
})

t.test('knows every event of close-with-grace, which must not listen itself', async t => {
  t.strictSame([...PROCESS_EVENTS, ...CRASH_SIGNALS].sort(), [...signalEvents, ...errorEvents, ...exitEvents].sort())
})

t.test('treats undefined as not given', async t => {
  const options = resolveOptions(JSON.parse('{}', () => ({ drainTimeout: undefined })) as GracefulOptions)
  t.equal(options.drainTimeout, DEFAULTS.drainTimeout)
  t.notOk(options.given.has('drainTimeout'))
})

t.test('leaves the given object unchanged and freezes its own', async t => {
  const given = Object.freeze({ drainTimeout: 1_000, health: Object.freeze({ checks: Object.freeze({}) }), signals: Object.freeze(['SIGTERM'] as const) })
  const options = resolveOptions(given)
  t.ok(Object.isFrozen(options))
  t.strictSame(options.signals, ['SIGTERM'])
})

const wrongDurations = ['30', NaN, Infinity, -Infinity, -1, 1.5, null, {}, [], true, 10n, 2 ** 31]

for (const option of ['shutdownTimeout', 'drainTimeout', 'shutdownDelay', 'spread', 'readTimeout', 'writeTimeout', 'idleTimeout']) {
  t.test(`rejects an invalid ${option}`, async t => {
    for (const value of wrongDurations) {
      // An adaptive delay is an object.
      if (option === 'shutdownDelay' && inspect(value) === '{}') continue
      const error = await registrationError({ [option]: value })
      t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
      t.match(error.message, `option "${option}"`, 'names the option')
      t.match(error.message, `got ${inspect(value)}`, 'names the value')
      t.match(error.message, 'a whole number of milliseconds', 'says what is allowed')
    }
  })
}

t.test('rejects an adaptive delay that is incomplete, or whose quiet is longer than its max', async t => {
  for (const [shutdownDelay, message] of [
    [{}, /option "max" of "shutdownDelay".*got undefined/],
    [{ max: 1_000 }, /option "quiet" of "shutdownDelay".*got undefined/],
    [{ max: 0, quiet: 0 }, /option "max".*from 1/],
    [{ max: 1_000, quiet: 1_001 }, /option "quiet" of "shutdownDelay": got 1001.*from 1 to 1000, the value of max/],
    [{ max: '1', quiet: 1 }, /option "max" of "shutdownDelay".*got '1' \(string\)/],
    [{ max: 1_000, quiet: 500, most: 1 }, /option of "shutdownDelay": "most"/]
  ] as const) {
    t.match((await registrationError({ shutdownDelay: shutdownDelay as never })).message, message)
  }
  const { message } = await registrationError({ shutdownDelay: { max: 29_000, quiet: 1 }, drainTimeout: 1_000 })
  t.match(message, /shutdownDelay \(29000 ms\)/)
})

t.test('rejects a spread that is longer than shutdownDelay and drainTimeout together', async t => {
  for (const [options, most] of [
    [{}, 25_000], [{ drainTimeout: 100 }, 100], [{ shutdownDelay: 200, drainTimeout: 100 }, 300],
    [{ shutdownDelay: { max: 500, quiet: 1 }, drainTimeout: 100 }, 600]
  ] as const) {
    const error = await registrationError({ ...options, spread: most + 1 })
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
    t.match(error.message, `option "spread": got ${most + 1} (number), allowed is a whole number of milliseconds from 0 to ${most}, shutdownDelay plus drainTimeout`)
    t.equal(resolveOptions({ ...options, spread: most }).spread, most)
  }
})

t.test('shows the type of a value that looks valid', async t => {
  t.match((await registrationError({ drainTimeout: '30' })).message, "'30' (string)")
})

t.test('rejects false and zero where they have no meaning', async t => {
  for (const options of [
    { shutdownTimeout: false }, { shutdownTimeout: 0 }, { drainTimeout: false }, { shutdownDelay: false },
    { spread: false }, { readTimeout: 0 }, { writeTimeout: 0 }, { idleTimeout: 0 }
  ]) {
    const error = await registrationError(options)
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
    t.match(error.message, String(Object.keys(options)[0]))
  }
})

t.test('rejects times that contradict each other', async t => {
  for (const options of [
    { shutdownTimeout: 25_000, drainTimeout: 25_000 }, { shutdownDelay: 5_000, drainTimeout: 25_000 }, { drainTimeout: 30_000 },
    { shutdownDelay: 30_000 }, { shutdownDelay: 10_000, shutdownTimeout: 10_000 },
    { shutdownTimeout: 1_000, drainTimeout: 600, shutdownDelay: 400 }
  ]) {
    const error = await registrationError(options)
    t.equal(error.code, 'FST_ERR_GRACEFUL_BUDGET')
    t.match(error.message, /shutdownDelay \(\d+ ms\) \+ drainTimeout \(\d+ ms\) must be at most \d+ ms, because shutdownTimeout \(\d+ ms\)/)
  }
})

t.test('rejects a budget that leaves no time for closing and callbacks, and says which value fits', async t => {
  const budgets = [[2_000, 0, 1_800], [1_000, 300, 600], [30_000, 10_000, 19_500], [60_000, 0, 59_500]] as const
  for (const [shutdownTimeout, shutdownDelay, most] of budgets) {
    const error = await registrationError({ shutdownTimeout, shutdownDelay, drainTimeout: most + 1 })
    t.equal(error.code, 'FST_ERR_GRACEFUL_BUDGET')
    t.match(error.message, `drainTimeout (${most + 1} ms) must be at most ${shutdownDelay + most} ms`)
    t.equal(resolveOptions({ shutdownTimeout, shutdownDelay, drainTimeout: most }).drainTimeout, most)
  }
})

t.test('derives a drainTimeout that is not given from the time that the delay leaves', async t => {
  for (const [options, drainTimeout] of [
    [{}, 25_000], [{ shutdownTimeout: 60_000 }, 25_000], [{ shutdownDelay: 10_000 }, 16_666], [{ shutdownTimeout: 10_000 }, 8_333],
    [{ shutdownTimeout: 20_000, shutdownDelay: 5_000 }, 12_500], [{ shutdownTimeout: 60_000, shutdownDelay: 40_000 }, 16_666],
    [{ shutdownTimeout: 1 }, 0], [{ shutdownTimeout: 10_000, drainTimeout: undefined }, 8_333],
    [{ shutdownDelay: 28_500 }, 1_000], [{ shutdownDelay: 29_500 }, 0]
  ] as Array<[GracefulOptions, number]>) {
    t.equal(resolveOptions(options).drainTimeout, drainTimeout, inspect(options))
  }
})

t.test('warns once, when the instance starts to listen, about timeouts that look as if they were in seconds', async t => {
  const given = { shutdownTimeout: 999, drainTimeout: 25, readTimeout: 10, writeTimeout: 1, idleTimeout: 120, shutdownDelay: 5 }
  const { app, log } = await createApp(t, given)
  await app.ready()
  const warnings = () => log.lines.filter(({ level }) => level === 40).map(({ msg }) => msg)
  t.strictSame(warnings(), [])
  await app.listen({ port: 0, host: 'localhost' })
  t.strictSame(warnings(), ['shutdownTimeout', 'drainTimeout', 'readTimeout', 'writeTimeout', 'idleTimeout'].map(name => {
    const value = given[name as keyof typeof given]
    return `Option ${name} is ${value} ms: times are in milliseconds. For ${value} s, set it to ${value}000`
  }))
})

t.test('does not warn about a derived value, a disabled option, or a second or more', async t => {
  for (const options of [
    {}, { shutdownDelay: 500, shutdownTimeout: 1_100 }, { readTimeout: 1_000 },
    { drainTimeout: 0, readTimeout: false, writeTimeout: false, idleTimeout: false }
  ] as const) {
    const { app, log } = await createApp(t, options)
    await listen(app)
    t.strictSame(log.lines.filter(({ level }) => level >= 40), [])
    await app.gracefulShutdown.shutdown()
  }
})

t.test('rejects unknown options', async t => {
  for (const [options, name, known] of [
    [{ drainTimeOut: 1 }, 'drainTimeOut', '(did you mean "drainTimeout"?)'],
    [{ shutdwonDelay: 1 }, 'shutdwonDelay', '(did you mean "shutdownDelay"?)'],
    [{ signal: true }, 'signal', '(did you mean "signals"?)'],
    [{ healthCheck: '/x' }, 'healthCheck', '"healthCheck", known are shutdownTimeout, drainTimeout'],
    [{ health: { url: '/x' } }, 'url', 'path'],
    [{ ready: { timeout: 1 } }, 'timeout', 'checkTimeout'],
    [{ ready: { duringShutdown: 200 } }, 'duringShutdown', 'guarded']
  ] as const) {
    const error = await registrationError(options)
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_UNKNOWN')
    t.match(error.message, `"${name}"`)
    t.match(error.message, known)
  }
})

t.test("accepts Fastify's own options of register(), which change nothing", async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, { prefix: '/x', logLevel: 'silent', logSerializers: { req: () => 'x' }, drainTimeout: 1_000 })
  t.equal((await app.inject('/health')).statusCode, 200)
  t.equal((await app.inject('/x/health')).statusCode, 404)
})

t.test('under @fastify/autoload, whose options are passed to each plugin, the error says how to configure the plugin', async t => {
  const dir = new URL('fixtures/autoloaded', import.meta.url).pathname
  const app = Fastify()
  await t.rejects(async () => { await app.register(autoload, { dir, options: { database: 'x' } }) }, {
    code: 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', message: /"database", known are .*@fastify\/autoload passes its options to each plugin/
  })
})

t.test('rejects invalid signals', async t => {
  const withHoles = [['SIGTERM', , 'SIGINT'], [,]] // oxlint-disable-line no-sparse-arrays
  for (const signals of ['SIGTERM', [], ['SIGKILL'], ['SIGTERM', 1], ...withHoles, null, 1, {}]) {
    const error = await registrationError({ signals })
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
    t.match(error.message, 'option "signals"')
    t.match(error.message, 'true, false or a list out of SIGTERM')
  }
  for (const signal of CRASH_SIGNALS) {
    const error = await registrationError({ signals: ['SIGTERM', signal] })
    t.equal(error.code, 'FST_ERR_GRACEFUL_CRASH_SIGNAL')
    t.match(error.message, `must not name ${signal}`)
  }
})

class Checks {
  async database (): Promise<void> {
    throw new Error('down')
  }
}

t.test('rejects options that are not an object with properties', async t => {
  const withoutProperties = [Promise.resolve({}), new Map(), new Set(), new Date(), /30s/, Object(30)]
  for (const options of ['30s', 30_000, true, [], ...withoutProperties]) {
    const error = await registrationError(options)
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
    t.match(error.message, 'Invalid options of fastify-graceful: got ')
    t.match(error.message, 'allowed is an object')
    const invalid = { code: 'FST_ERR_GRACEFUL_OPTION_INVALID', message: /options of fastify-graceful\/prometheus/ }
    t.throws(() => resolveMetricsOptions(options as object), invalid)
  }
})

t.test('rejects invalid probes', async t => {
  const cases: Array<[unknown, string]> = [
    ['health', 'leading slash'], ['', 'leading slash'], ['/a b', 'leading slash'], ['/:id', 'without parameters'],
    ['/*', 'without parameters'], ['/a?b', 'leading slash'], [true, 'a path, an object or false'], [1, 'a path, an object or false'],
    [null, 'a path, an object or false'], [[], 'a path, an object or false'], [Promise.resolve({}), 'a path, an object or false'],
    [{ path: 1 }, 'leading slash'], [{ path: 'x' }, 'leading slash'], [{ checks: [] }, 'named functions'],
    [{ checks: { db: true } }, 'named functions'], [{ checks: new Checks() }, 'a plain object of named functions'],
    [{ checks: new Map([['db', () => false]]) }, 'a plain object'], [{ checks: Object.create(new Checks()) }, 'a plain object'], [{ checkTimeout: '1' }, 'milliseconds'], [{ logLevel: 1 }, 'levels'],
    [{ guarded: 1 }, 'true or false'], [{ schema: true }, "a route's schema"], [{ config: [] }, "a route's config"]
  ]
  for (const [value, allowed] of cases) {
    for (const option of ['health', 'ready']) {
      const error = await registrationError({ [option]: value })
      t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
      const [inside] = typeof value === 'object' ? Object.keys(value ?? {}) : []
      t.match(error.message, `Invalid option ${inside === undefined ? '' : `"${inside}" of `}"${option}": got `)
      t.match(error.message, allowed)
    }
  }
})

t.test('runs the checks of an object without a prototype, and of another realm', async t => {
  for (const checks of [Object.assign(Object.create(null), { db: () => false }), runInNewContext('({ db: () => false })')]) {
    const { app } = await createApp(t, { ready: { checks: checks as Record<string, () => boolean> } })
    t.match((await app.inject('/ready')).json(), { checks: ['db'] })
  }
})

t.test('reads options that an instance of a class inherits, at each level', async t => {
  class Delay { get max () { return 300 } get quiet () { return 200 } }
  class Health { get path () { return '/livez' } }
  class Config {
    get shutdownDelay () { return new Delay() }
    get drainTimeout () { return 1_000 }
    get health () { return new Health() }
  }
  const options = resolveOptions(new Config())
  t.match(options, { shutdownDelay: { max: 300, quiet: 200 }, drainTimeout: 1_000, readTimeout: 10_000, health: { path: '/livez' } })
  t.strictSame(options.given, new Set(['drainTimeout', 'shutdownDelay', 'health']))
  class Seconds { get drainTimeout () { return '25' } }
  t.equal((await registrationError(new Seconds())).code, 'FST_ERR_GRACEFUL_OPTION_INVALID')

  class Route { get writeTimeout () { return 200 } }
  const { app } = await createApp(t, new Config())
  const held = new Deferred()
  app.get('/', { config: { gracefulShutdown: new Route() } }, async () => { await held.promise })
  const client = new RawClient(await listen(app)).get('/')
  t.match(await client.until(/\}$/), /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_WRITE_TIMEOUT.*200 ms/)
  client.socket.destroy()
  t.equal((await app.inject('/livez')).statusCode, 200)
  held.resolve()
  class Callback { get name () { return 'inherited' } }
  app.registerShutdownCallback(() => {}, new Callback())
  t.match(await app.gracefulShutdown.shutdown(), { callbacks: [{ name: 'inherited' }] })

  const registry = new Registry()
  class Metrics { get register () { return registry } get prefix () { return 'own_' } }
  t.strictSame(resolveMetricsOptions(new Metrics()), { register: registry, prefix: 'own_' })
})

t.test('rejects a status code during a shutdown that is neither 200 nor 503', async t => {
  for (const duringShutdown of [204, '200', true, null]) {
    const error = await registrationError({ health: { duringShutdown } })
    t.equal(error.code, 'FST_ERR_GRACEFUL_OPTION_INVALID')
    t.match(error.message, /option "duringShutdown" of "health": got .*, allowed is 200 or 503/)
  }
})

t.test('rejects two probes on one path', async t => {
  for (const options of [{ health: '/ready' }, { ready: '/health' }, { health: '/x', ready: { path: '/x' } }]) {
    const error = await registrationError(options)
    t.equal(error.code, 'FST_ERR_GRACEFUL_PROBE_PATH')
    t.match(error.message, 'option "health"')
  }
})

t.test('rejects a probe on the path of a route', async t => {
  const app = Fastify()
  app.get('/ready', async () => 'mine')
  await t.rejects(async () => { await app.register(gracefulPlugin) }, { code: 'FST_ERR_GRACEFUL_PROBE_PATH', message: /"ready", "\/ready", is also the path of a route/ })
})

t.test('rejects a probe on the path of a HEAD route', async t => {
  const app = Fastify()
  app.head('/health', async () => 'mine')
  await t.rejects(async () => { await app.register(gracefulPlugin) }, { code: 'FST_ERR_GRACEFUL_PROBE_PATH', message: /Set option "health"/ })
})

for (const options of [
  { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false },
  { routerOptions: { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false } }
] as FastifyServerOptions[]) {
  const where = 'routerOptions' in options ? ' in routerOptions' : ''
  t.test(`with Fastify's options for equal paths${where}, paths that only the router takes for equal are also rejected`, async t => {
    const equal = ['/health/', '//health', '/Health', '//HEALTH/']
    const isTaken = { code: 'FST_ERR_GRACEFUL_PROBE_PATH', message: /Set option "/ }
    expectWarnings(t, /use "options.routerOptions"/i)
    const app = Fastify(options)
    t.teardown(async () => { await app.close() })
    await app.register(gracefulPlugin)
    for (const path of equal) t.throws(() => app.get(path, async () => 'mine'), isTaken, `a later route on ${path}`)
    app.get('/', async () => 'mine')
    for (const path of equal) {
      const before = Fastify(options)
      before.get('/health', async () => 'mine')
      await t.rejects(async () => { await before.register(gracefulPlugin, { health: path }) }, isTaken, `a probe on ${path}`)
      await t.rejects(async () => { await Fastify(options).register(gracefulPlugin, { health: '/health', ready: path }) }, isTaken, `both probes on ${path}`)
    }
  })
}

t.test('without them, these are different paths', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  const paths = ['/health/', '//health', '/Health']
  for (const path of paths) app.get(path, async () => 'mine')
  for (const path of paths) t.equal((await app.inject(`http://localhost${path}`)).body, 'mine')
})

t.test('rejects a second registration', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  await t.rejects(async () => { await app.register(gracefulPlugin) }, { code: 'FST_ERR_GRACEFUL_ALREADY_REGISTERED' })
})

for (const name of ['gracefulShutdown', 'registerShutdownCallback', 'isShuttingDown', 'inFlightRequests']) {
  t.test(`rejects registration if other code has added the decorator ${name}, and names it`, async t => {
    const app = Fastify()
    let isClosed = false
    app.addHook('onClose', async () => { isClosed = true })
    app.decorate(name, null)
    await t.rejects(async () => { await app.register(gracefulPlugin) }, {
      code: 'FST_ERR_GRACEFUL_DECORATOR_TAKEN', message: new RegExp(`already has a decorator "${name}".*adds gracefulShutdown, `)
    })
    await app.close().catch(() => {})
    t.ok(isClosed)
  })
}

t.test('rejects registration in a child context, where it would protect no other route, and says how to register it', async t => {
  const app = Fastify()
  app.register(async child => { await child.register(gracefulPlugin) })
  await t.rejects(async () => { await app.ready() }, { code: 'FST_ERR_GRACEFUL_NOT_ROOT', message: /root instance.*fastify-plugin/ })
  await app.close()
})

t.test('rejects registration in a plugin that @fastify/autoload gives a context of its own, and names the wrapper that it needs', async t => {
  const dir = new URL('fixtures/autoloaded-child', import.meta.url).pathname
  const app = Fastify()
  await t.rejects(async () => { await app.register(autoload, { dir }) }, {
    code: 'FST_ERR_GRACEFUL_NOT_ROOT', message: /wrap each plugin that it is registered from in fastify-plugin: one that @fastify\/autoload loads/
  })
  await app.close().catch(() => {})
  // As fastify-plugin does for a single plugin.
  const unwrapped = Fastify()
  t.teardown(async () => { await unwrapped.close() })
  await unwrapped.register(autoload, { dir, encapsulate: false })
  t.equal((await unwrapped.inject('/health')).statusCode, 200)
})

t.test('an instance whose registration failed closes', async t => {
  for (const options of [{}, { shutdownTimeout: 1, drainTimeout: 1 }, { health: { path: '/h', logLevel: 'no level' } }]) {
    const app = Fastify({ logger: { stream: new Writable({ write (_chunk, _encoding, done) { done() } }) } })
    app.get('/health', async () => 'mine')
    let isClosed = false
    app.addHook('onClose', async () => { isClosed = true })
    await t.rejects(async () => { await app.register(gracefulPlugin, options) })
    await app.close().catch(() => {})
    t.ok(isClosed)
  }
})

t.test('the error for a later route with the path of a probe names the option to change', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, { ready: '/are/you' })
  t.throws(() => app.get('/health', async () => 'mine'), { code: 'FST_ERR_GRACEFUL_PROBE_PATH', message: /Set option "health".*another path, or to false/ })
  t.throws(() => app.head('/are/you', async () => 'mine'), { code: 'FST_ERR_GRACEFUL_PROBE_PATH', message: /Set option "ready"/ })
  app.post('/health', async () => 'mine')
  app.route({ method: 'GET', url: '/health', constraints: { host: 'elsewhere' }, handler: async () => 'mine' })
  t.equal((await app.inject('/health')).body, '{"status":"healthy"}')
  t.equal((await app.inject({ url: '/health', headers: { host: 'elsewhere' } })).body, 'mine')
})

t.test('rejects a server that is shared with another instance', async t => {
  const server = createServer()
  const serverFactory = () => server
  const first = Fastify({ serverFactory })
  const second = Fastify({ serverFactory })
  t.teardown(async () => { await first.close() })
  await first.register(gracefulPlugin)
  await t.rejects(async () => { await second.register(gracefulPlugin) }, { code: 'FST_ERR_GRACEFUL_SERVER_SHARED', message: /another instance/ })
})

t.test('rejects invalid settings of a route', async t => {
  for (const [gracefulShutdown, code, names] of [
    [true, 'FST_ERR_GRACEFUL_OPTION_INVALID', 'false or an object'],
    [null, 'FST_ERR_GRACEFUL_OPTION_INVALID', 'false or an object'],
    [{ writeTimeOut: 1 }, 'FST_ERR_GRACEFUL_OPTION_UNKNOWN', 'writeTimeout'],
    [{ writeTimeout: '1' }, 'FST_ERR_GRACEFUL_OPTION_INVALID', "'1' (string)"],
    [{ readTimeout: 0 }, 'FST_ERR_GRACEFUL_OPTION_INVALID', 'or false'],
    [{ onShutdown: 'close' }, 'FST_ERR_GRACEFUL_OPTION_INVALID', "got 'close' (string), allowed is 'end'"]
  ] as const) {
    const app = Fastify()
    await app.register(gracefulPlugin)
    t.throws(() => app.get('/route', { config: { gracefulShutdown: gracefulShutdown as false } }, async () => 'x'),
      { code, message: new RegExp(`"/route".*${names.replaceAll(/[()]/g, String.raw`\$&`)}`) })
    await app.close()
  }
})

const PLUGIN_OPTIONS = 'shutdownTimeout, drainTimeout, shutdownDelay, spread, readTimeout, writeTimeout, idleTimeout, signals, health, ready'
const AUTOLOAD = '. @fastify/autoload passes its options to each plugin that it loads. To configure fastify-graceful there, ' +
  'load a file that exports fp(async app => { await app.register(gracefulPlugin, { ... }) }), with fp from fastify-plugin'
const HEALTH_OPTIONS = 'path, checks, checkTimeout, guarded, schema, config, logLevel'
const PATH = 'a path with a leading slash, without parameters'
const WHOLE = 'a whole number of milliseconds from'
const LONGEST = 2_147_483_647
const EVENTS = 'SIGTERM, SIGINT, SIGHUP, SIGQUIT, uncaughtException, unhandledRejection, SIGUSR2, beforeExit'
const IN_ROUTE = 'config.gracefulShutdown of route "/x"'
const PREFIX = 'letters, digits and underscores, first a letter or an underscore'

/** What the error for each of these says, in full. */
const messages: Record<string, Array<[given: unknown, message: string]>> = {
  'the plugin': [
    [null, 'Invalid options of fastify-graceful: got null, allowed is an object'],
    [{ drainTimout: 1 }, `Unknown option "drainTimout" (did you mean "drainTimeout"?), known are ${PLUGIN_OPTIONS}${AUTOLOAD}`],
    [{ database: 1 }, `Unknown option "database", known are ${PLUGIN_OPTIONS}${AUTOLOAD}`],
    [{ shutdownTimeout: '5' }, `Invalid option "shutdownTimeout": got '5' (string), allowed is ${WHOLE} 1 to ${LONGEST}`],
    [{ shutdownTimeout: [5_000] }, `Invalid option "shutdownTimeout": got [ 5000 ], allowed is ${WHOLE} 1 to ${LONGEST}`],
    [{ shutdownDelay: 'x' }, `Invalid option "shutdownDelay": got 'x' (string), allowed is ${WHOLE} 0 to ${LONGEST}, or an object with max and quiet`],
    [{ readTimeout: 0 }, `Invalid option "readTimeout": got 0 (number), allowed is ${WHOLE} 1 to ${LONGEST}, or false`],
    [{ signals: [] }, `Invalid option "signals": got [], allowed is true, false or a list out of ${EVENTS}`],
    [{ health: 1 }, 'Invalid option "health": got 1 (number), allowed is a path, an object or false'],
    [{ health: { pth: '/x' } }, `Unknown option of "health": "pth" (did you mean "path"?), known are ${HEALTH_OPTIONS}, duringShutdown`],
    [{ health: { path: 'x/health' } }, `Invalid option "path" of "health": got 'x/health' (string), allowed is ${PATH}`],
    [{ health: { path: ['/health'] } }, `Invalid option "path" of "health": got [ '/health' ], allowed is ${PATH}`],
    [{ health: { checks: 1 } }, 'Invalid option "checks" of "health": got 1 (number), allowed is a plain object of named functions'],
    [{ health: { checks: null } }, 'Invalid option "checks" of "health": got null, allowed is a plain object of named functions'],
    [{ ready: { duringShutdown: 200 } }, `Unknown option of "ready": "duringShutdown", known are ${HEALTH_OPTIONS}`]
  ],
  'a route': [
    [true, `Invalid ${IN_ROUTE}: got true (boolean), allowed is false or an object`],
    [{ wait: 1 }, `Unknown option of ${IN_ROUTE}: "wait", known are readTimeout, writeTimeout, onShutdown, waitFor`],
    [{ readTimeout: 0 }, `Invalid "readTimeout" in ${IN_ROUTE}: got 0 (number), allowed is ${WHOLE} 1 to ${LONGEST}, or false`],
    [{ onShutdown: 'close' }, `Invalid "onShutdown" in ${IN_ROUTE}: got 'close' (string), allowed is 'end'`],
    [{ waitFor: 'promise' }, `Invalid "waitFor" in ${IN_ROUTE}: got 'promise' (string), allowed is 'response'`]
  ],
  'a callback': [
    [5, 'Invalid options of a shutdown callback: got 5 (number), allowed is an object'],
    [{ nme: 'x' }, 'Unknown option of a shutdown callback "nme" (did you mean "name"?), known are name, timeout, when'],
    [{ when: 'later' }, "Invalid option \"when\" of a shutdown callback: got 'later' (string), allowed is 'start' or 'end'"],
    [{ name: '' }, "Invalid option \"name\" of a shutdown callback: got '' (string), allowed is a string that is not empty"],
    [{ timeout: 11 }, `Invalid option "timeout" of a shutdown callback: got 11 (number), allowed is ${WHOLE} 1 to 10`]
  ],
  'the metrics': [
    [5, 'Invalid options of fastify-graceful/prometheus: got 5 (number), allowed is an object'],
    [{ registry: 1 }, 'Unknown option "registry" (did you mean "register"?), known are register, prefix'],
    [{ register: {} }, 'Invalid option "register": got {}, allowed is a Registry of prom-client'],
    [{ prefix: ['a'] }, `Invalid option "prefix": got [ 'a' ], allowed is ${PREFIX}`],
    [{ prefix: 'a b' }, `Invalid option "prefix": got 'a b' (string), allowed is ${PREFIX}`]
  ]
}
const resolvers: Record<string, (given: never) => unknown> = {
  'the plugin': resolveOptions,
  'a route': given => resolveRouteOptions('/x', given),
  'a callback': given => resolveCallbackOptions(given, 10),
  'the metrics': resolveMetricsOptions
}
for (const [what, cases] of Object.entries(messages)) {
  t.test(`the errors for options of ${what} say what is wrong, and what is allowed`, async t => {
    for (const [given, message] of cases) {
      try {
        resolvers[what]?.(given as never)
        t.fail(`accepts ${inspect(given)}`)
      } catch (error) {
        t.equal((error as Error).message, message)
      }
    }
  })
}

t.test('a value in an error is shown with its type if that may be the mistake, and shortened if it is long', async t => {
  const shown: Array<[value: unknown, text: string]> = [
    ['30', "'30' (string)"], [30, '30 (number)'], [1n, '1n (bigint)'], [undefined, 'undefined (undefined)'], [Symbol('x'), 'Symbol(x) (symbol)'],
    [null, 'null'], [[1], '[ 1 ]'], [{ a: { b: { c: 1 } } }, '{ a: { b: [Object] } }'], [function named () {}, '[Function: named]']
  ]
  for (const [value, text] of shown) t.equal(show(value), text)
  t.equal(show([1, 2], 8), '[ 1, 2 ]', 'as long as it may be')
  t.equal(show([1, 23], 8), '[ 1, 23 …')
  t.equal(show({ get [inspect.custom] () { throw new Error('no') } }), 'a value of type object that cannot be shown')
})
