// The simulation compared with its theoretical results and with the plugin itself.

import t from 'tap'
import type { Result } from '../../example/simulation/rollout.ts'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { readConfig } from '../../example/config.ts'
import { meets, timeline } from '../../example/simulation/pod.ts'
import { Random } from '../../example/simulation/random.ts'
import { checked, simulate } from '../../example/simulation/rollout.ts'
import { schedule } from '../../example/simulation/schedule.ts'
import {
  bounds, durationByQuiet, leastOfEach, lossesByDelay, lossesByDrain, lossesByPreStop, lossesByQuiet, MANY, MODEL, recommend,
  RECOMMENDED, rollout, sampled
} from '../../example/simulation/tables.ts'
import { resolveOptions } from '../../lib/options.ts'
import { createApp, listen, RawClient } from '../helpers.ts'
import { page, timesGiven } from '../pages.ts'

type Change = Parameters<typeof rollout>[0]
const run = (change: Change, seed = 1) => simulate(rollout(change), seed)

t.test('without a delay, it loses the requests that are sent before the proxies are told', async t => {
  const { lost } = run({ shutdownDelay: 0, pods: 200, connections: 0 })
  const expected = 200 * MODEL.rate * MODEL.removal / 2_000
  t.ok(Math.abs(lost - expected) < expected / 10, `${lost} lost, ${expected} expected`)
})

t.test("a longer delay never loses more, and one longer than the last proxy's loses nothing", async t => {
  let before = Infinity
  for (let shutdownDelay = 0; shutdownDelay <= 10_000; shutdownDelay += 1_000) {
    const { lost } = run({ shutdownDelay })
    t.ok(lost <= before, `${shutdownDelay} ms: ${lost}`)
    before = lost
  }
  t.equal(before, 0)
})

t.test('each number has its effect', async t => {
  const more = (name: string, less: Change, greater: Change, of: (result: Result) => number) => {
    const [small, large] = [of(run(less)), of(run(greater))]
    t.ok(large > small, `${name}: ${small} < ${large}`)
  }
  const noDelay = { shutdownDelay: 0 }
  const atOnce = { maxSurge: 0, maxUnavailable: MODEL.pods }
  const preStop = { preStop: 10_000, shutdownDelay: 500, grace: 45_000 }
  const shortDrain = { drainTimeout: 1_000, shutdownDelay: MODEL.removal, pods: MANY }
  more('pods', { ...noDelay, pods: 3 }, { ...noDelay, pods: 10 }, ({ lost }) => lost)
  more('rate', noDelay, { ...noDelay, rate: 100 }, ({ lost }) => lost)
  more('removal', { ...noDelay, removal: 4_000 }, noDelay, ({ lost }) => lost)
  more('shutdownDelay', {}, { shutdownDelay: 4_000 }, ({ lost }) => lost)
  more('drainTimeout', { ...shortDrain, drainTimeout: 15_000 }, shortDrain, ({ outcomes }) => outcomes.cut)
  more('longest', { ...shortDrain, longest: 1_000 }, shortDrain, ({ outcomes }) => outcomes.cut)
  more('median', shortDrain, { ...shortDrain, median: 200 }, ({ outcomes }) => outcomes.cut)
  more('grace', { pods: MANY }, { pods: MANY, grace: 8_000 }, ({ outcomes }) => outcomes.killed)
  more('cleanup', {}, { cleanup: 20_000 }, ({ unclean }) => unclean)
  more('preStop', { ...noDelay, preStop: 10_000, connections: 0 }, { ...noDelay, connections: 0 }, ({ lost }) => lost)
  more('connections', { ...preStop, connections: 1 }, { ...preStop, connections: 100 }, ({ lost }) => lost)
  more('pause', { ...preStop, pause: 400 }, preStop, ({ lost }) => lost)
  more('maxSurge', { maxSurge: 5 }, { maxSurge: 1 }, ({ time }) => time)
  more('maxSurge, at once', { maxSurge: 1 }, { maxSurge: 5 }, ({ leaving }) => leaving)
  more('maxUnavailable', { maxUnavailable: 3 }, {}, ({ time }) => time)
  more('maxUnavailable, all', { maxUnavailable: 9, maxSurge: 0 }, atOnce, ({ outcomes }) => outcomes['no pod'])
  more('startUp', { ...atOnce, removal: 1_000 }, { ...atOnce, removal: 1_000, startUp: 6_000 }, ({ outcomes }) => outcomes['no pod'])
  more('startUp, time', {}, { startUp: 6_000 }, ({ time }) => time)
  more('probePeriod', {}, { probePeriod: 10_000 }, ({ time }) => time)

  // With many proxies, at least one is told late.
  const spread = (proxies: number) => {
    const lost = Array.from({ length: 10 }, (_, seed) => run({ ...noDelay, proxies, pods: 3 }, seed).lost)
    return Math.max(...lost) - Math.min(...lost)
  }
  t.ok(spread(1) > 2 * spread(50), 'proxies')
})

t.test('a rolling update keeps its limits and waits for the probes of new pods', async t => {
  const update = { pods: 10, maxSurge: 2, maxUnavailable: 3, startUp: 3_000, probePeriod: 2_000 }
  const { deleted, ready } = schedule(update, new Random(1))
  t.equal(deleted.length, 10)
  t.equal(ready.length, 10)
  const upTo = (times: readonly number[], now: number) => times.filter(at => at <= now).length
  for (const now of [0, ...deleted, ...ready]) t.ok(10 - upTo(deleted, now) + upTo(ready, now) >= 7)
  t.equal(upTo(deleted, 0), 3, 'this many may be missing at once')
  t.ok((ready[0] ?? 0) >= 3_000)
  t.ok((ready[4] ?? 0) <= 5_000, 'five are started at once: the surge plus the missing ones')
  t.ok((ready[5] ?? 0) > 6_000)
  t.throws(() => schedule({ ...update, maxSurge: 0, maxUnavailable: 0 }, new Random(1)), RangeError)
})

t.test('a drain or a grace period that is shorter than the longest request cuts that request', async t => {
  const request = { at: -100, duration: 6_000 }
  const met = (drainTimeout: number, grace: number) =>
    meets(timeline({ options: resolveOptions({ drainTimeout, shutdownTimeout: 30_000 }), preStop: 0, grace }, [request]), request)
  t.equal(met(10_000, 35_000), 'served')
  t.equal(met(5_000, 35_000), 'cut')
  t.equal(met(10_000, 4_000), 'killed')
  t.match(lossesByDrain(), /^\| 10 s \| 0 \| 0 \| 0 \| [1-9]/m)
})

t.test('active checks notice after fall × inter at the most, with or without preStop', async t => {
  for (const preStop of [0, 5_000]) {
    const delay = { options: resolveOptions({ shutdownDelay: 700, drainTimeout: 15_000 }), preStop, grace: 35_000 }
    const model = { ...rollout({ removal: 0, connections: 0 }), proxies: 1, settings: delay }
    t.equal(simulate({ ...model, propagation: checked(200, 3) }, 1).lost, 0)
    t.ok(simulate({ ...model, propagation: checked(400, 3) }, 1).lost > 0)
  }
})

t.test('what loses nothing in many runs is the theoretical minimum or slightly less', async t => {
  for (const change of [{ removal: 0 }, { removal: 4_000 }, { removal: 2_000, preStop: 3_000 }, { longest: 3_000, shutdownDelay: 8_000 }]) {
    const [must, found] = [bounds({ ...change, pods: MANY }), sampled({ ...change, pods: MANY })]
    for (const name of ['delay', 'drain', 'grace'] as const) {
      // Sampled in steps of 50 ms.
      t.ok(found[name] <= must[name] + 50, `${name}: ${found[name]} of ${must[name]}`)
      t.ok(found[name] >= 0.85 * must[name], `${name}: ${found[name]} of ${must[name]}`)
    }
  }
})

t.test('the recommendation for a service is more than the theoretical minimum, and loses nothing', async t => {
  for (const service of [MODEL, { longest: 2_000, removal: 1_000, cleanup: 500 }, { longest: 60_000, removal: 30_000, cleanup: 20_000 }]) {
    const { options, grace } = recommend(service)
    const { shutdownDelay: { max: shutdownDelay }, drainTimeout, shutdownTimeout } = resolveOptions(options)
    const change = { longest: service.longest, removal: service.removal, cleanup: service.cleanup }
    const must = bounds({ ...change, shutdownDelay, drainTimeout })
    t.ok(shutdownDelay >= must.delay + 1_000)
    t.ok(drainTimeout >= must.drain)
    t.ok(shutdownTimeout >= shutdownDelay + service.longest + service.cleanup)
    t.ok(grace >= must.grace)
    t.ok(grace >= shutdownTimeout + 5_000)
    for (let seed = 0; seed < 10; seed++) {
      const { lost, unclean } = run({ ...change, shutdownDelay, drainTimeout, shutdownTimeout, grace }, seed)
      t.strictSame({ lost, unclean }, { lost: 0, unclean: 0 })
    }
  }
})

t.test('README, docs/kubernetes.md and the example for Kubernetes have the tables and the recommended numbers', async t => {
  const [readme, kubernetes] = [page('README.md'), page('docs/kubernetes.md')]
  for (const table of [lossesByDelay(), lossesByPreStop(), leastOfEach()]) t.ok(kubernetes.text.includes(`\n${table}\n`), table)
  const { text } = page('docs/load-balancers.md')
  for (const table of [lossesByQuiet(), durationByQuiet()]) t.ok(text.includes(`\n${table}\n`), table)
  const { shutdownDelay, drainTimeout, shutdownTimeout } = RECOMMENDED.options
  for (const one of [readme, kubernetes]) {
    t.strictSame(timesGiven(one)[0]?.options, { shutdownDelay, drainTimeout, shutdownTimeout }, one.path)
    t.ok(one.text.includes(`terminationGracePeriodSeconds: ${RECOMMENDED.grace / 1_000}`), one.path)
  }
  const { config, grace } = deployment('deployment.yaml')
  t.equal(config.shutdownDelay, shutdownDelay)
  t.ok(config.drainTimeout >= drainTimeout)
  t.equal(config.shutdownTimeout, shutdownTimeout)
  t.equal(grace, RECOMMENDED.grace)
})

t.test('the examples for Kubernetes, with and without preStop, lose nothing', async t => {
  for (const file of ['deployment.yaml', 'deployment-prestop.yaml']) {
    const { config: { shutdownDelay, drainTimeout, shutdownTimeout }, preStop, grace } = deployment(file)
    for (let seed = 0; seed < 10; seed++) {
      const { lost, unclean } = run({ shutdownDelay, drainTimeout, shutdownTimeout, preStop, grace }, seed)
      t.strictSame({ lost, unclean }, { lost: 0, unclean: 0 }, file)
    }
  }
})

interface PodSpec {
  terminationGracePeriodSeconds: number
  containers: [{ env: Array<{ name: string, value: string }>, lifecycle?: { preStop: { sleep: { seconds: number } } } }]
}

/** The numbers of an example. */
function deployment (file: string) {
  const text = readFileSync(new URL(`../../example/kubernetes/${file}`, import.meta.url), 'utf8')
  const { spec: { template: { spec } } } = parse(text) as { spec: { template: { spec: PodSpec } } }
  const { terminationGracePeriodSeconds, containers: [{ env, lifecycle }] } = spec
  return {
    config: readConfig(Object.fromEntries(env.map(({ name, value }) => [name, value]))),
    preStop: (lifecycle?.preStop.sleep.seconds ?? 0) * 1_000,
    grace: terminationGracePeriodSeconds * 1_000
  }
}

/** Milliseconds between two requests that observe the plugin. */
const REQUEST_INTERVAL = 30
/** How long requests continue after the plugin has closed. */
const TIME_AFTER_CLOSE = 400
/** Milliseconds that a request takes; and by which part of the previous phase a busy machine may delay a phase. */
const SHORT = 1
const LATE = 0.8

// The plugin in scaled-down time, once for each way in which a drain may end.
for (const { name, longest } of [{ name: 'all requests are answered', longest: 800 }, { name: 'drainTimeout is over', longest: 30_000 }]) {
  t.test(`phases and responses match those of the simulation, until ${name}`, async t => {
    const settings = { shutdownDelay: 600, drainTimeout: 1_000, shutdownTimeout: 8_000 }
    const { app } = await createApp(t, settings)
    app.get<{ Querystring: { ms: string } }>('/', async ({ query }) => {
      await sleep(Number(query.ms), undefined, { ref: false })
      return 'served'
    })
    const port = await listen(app)
    // Two open, idle connections: one sends a request while delaying, one while draining.
    const [asksInDelay, asksInDrain] = [new RawClient(port), new RawClient(port)]
    for (const client of [asksInDelay, asksInDrain]) await client.get('/?ms=1').until(/served$/)

    const start = performance.now()
    const now = () => performance.now() - start
    const report = app.gracefulShutdown.shutdown()
    const ask = async (duration: number) => {
      const at = now()
      const client = new RawClient(port).get(`/?ms=${duration}`)
      await client.closed
      return { at, duration, answered: now(), met: metBy(client) }
    }
    const asked: Array<ReturnType<typeof ask>> = []
    const untilEnd = (async () => {
      for (let after = 0; after < TIME_AFTER_CLOSE; after += app.gracefulShutdown.phase === 'closed' ? REQUEST_INTERVAL : 0) {
        asked.push(ask(SHORT))
        await sleep(REQUEST_INTERVAL)
      }
    })()
    await sleep(settings.shutdownDelay / 2)
    const lasting = ask(longest)
    await asksInDelay.get('/?ms=1').closed
    t.match(asksInDelay.text, /200 OK[^]*200 OK[^]*connection: close[^]*served$/i)
    while (app.gracefulShutdown.phase === 'delaying') await sleep(2)
    await asksInDrain.get('/?ms=1').closed
    t.match(asksInDrain.text, /200 OK[^]*503 Service Unavailable[^]*connection: close/i)
    await Promise.all([untilEnd, report])

    const all = [await lasting, ...await Promise.all(asked)]
    const model = timeline({ options: resolveOptions(settings), preStop: 0, grace: 60_000 }, all)
    const { phases: { delaying: draining, draining: drainTime } } = await report
    const closing = draining + drainTime
    t.ok(draining >= model.draining - 2 && draining < model.draining * (1 + LATE), `draining at ${draining}, ${model.draining} in the simulation`)
    // In the simulation, closing begins as late as possible.
    const earliest = Math.min(model.closing, (all[0]?.at ?? NaN) + longest) - 10
    t.ok(closing >= earliest && closing < model.closing * (1 + LATE), `closing at ${closing}, ${model.closing} in the simulation`)

    // Requests in progress when a phase begins, in the plugin or in the simulation, may get either response and are not checked.
    const boundaries = [[model.draining, draining], [model.closing, closing]] as const
    const isClear = ({ at, answered }: { at: number, answered: number }) =>
      boundaries.every(times => answered < Math.min(...times) - 10 || at > Math.max(...times) + 10)
    const judged = all.filter(request => request.duration > SHORT || isClear(request))
    for (const request of judged) {
      const [expected, { at, met }] = [meets(model, request), request]
      // A connection accepted while connections are closed is still answered with 503: the plugin continues to accept for a moment.
      if (expected === 'connection refused') t.ok(['connection refused', 'refused'].includes(met), `${at}: ${met}`)
      else t.equal(met, expected, `${at}`)
    }
    t.equal(judged[0]?.met, longest > settings.drainTimeout ? 'cut' : 'served')
    for (const outcome of ['served', 'refused', 'connection refused']) t.ok(judged.some(({ met }) => met === outcome), outcome)
  })
}

function metBy ({ error, text }: RawClient): string {
  if (text.includes('FST_ERR_GRACEFUL_DRAIN_TIMEOUT')) return 'cut'
  if (text.startsWith('HTTP/1.1 503')) return 'refused'
  if (error !== undefined || text === '') return 'connection refused'
  return 'served'
}
