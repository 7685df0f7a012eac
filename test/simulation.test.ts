// The simulation against what must be, and against the plugin itself.

import t from 'tap'
import { readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { readConfig } from '../example/config.ts'
import { terminate } from '../example/simulation/pod.ts'
import { checked, simulate } from '../example/simulation/rollout.ts'
import { leastDelay, MODEL, RECOMMENDED, rollout } from '../example/simulation/tables.ts'
import { resolveOptions } from '../lib/options.ts'
import { createApp, eventually, heldRoute, listen, RawClient } from './helpers.ts'

const withDelay = (shutdownDelay: number) => ({ options: { ...RECOMMENDED.options, shutdownDelay } })

t.test('without a delay, it loses what is sent until the proxies have heard', async t => {
  const { lost } = simulate(rollout(8_000, withDelay(0), { pods: 200 }), 1)
  const expected = 200 * MODEL.rate * 4
  t.ok(Math.abs(lost - expected) < expected / 10, `${lost} lost, ${expected} expected`)
})

t.test('a longer delay never loses more, and one beyond the last proxy nothing', async t => {
  let before = Infinity
  for (let delay = 0; delay <= 10_000; delay += 1_000) {
    const { lost } = simulate(rollout(8_000, withDelay(delay)), 1)
    t.ok(lost <= before, `${delay} ms: ${lost}`)
    before = lost
  }
  t.equal(before, 0)
})

t.test('losses grow with the number of pods', async t => {
  const [few = 0, many = 0] = [10, 1_000].map(pods => simulate(rollout(8_000, withDelay(0), { pods }), 1).lost)
  t.ok(Math.abs(many / few - 100) < 15, `${few}, ${many}`)
})

t.test('a drain or a grace period that is shorter than the longest request cuts it', async t => {
  const request = [{ at: -100, duration: 6_000 }]
  const options = (drainTimeout: number) => resolveOptions({ drainTimeout, shutdownTimeout: 30_000 })
  t.strictSame(terminate({ options: options(10_000), preStop: 0, grace: 35_000 }, request), ['served'])
  t.strictSame(terminate({ options: options(5_000), preStop: 0, grace: 35_000 }, request), ['cut'])
  t.strictSame(terminate({ options: options(10_000), preStop: 0, grace: 4_000 }, request), ['killed'])
})

t.test('active checks are heard of after fall x inter at the most, preStop or not', async t => {
  for (const preStop of [0, 5_000]) {
    const delay = { options: resolveOptions({ shutdownDelay: 700, drainTimeout: 5_000 }), preStop, grace: 35_000 }
    const model = { ...rollout(0), proxies: 1, settings: delay }
    t.equal(simulate({ ...model, propagation: checked(200, 3) }, 1).lost, 0)
    t.ok(simulate({ ...model, propagation: checked(400, 3) }, 1).lost > 0)
  }
})

t.test('the recommended numbers lose nothing, with a second or more to spare', async t => {
  for (let seed = 0; seed < 20; seed++) t.equal(simulate(rollout(8_000), seed).lost, 0)
  t.ok(leastDelay(8_000) <= RECOMMENDED.options.shutdownDelay - 1_000)
})

t.test('the README and the example for Kubernetes have the recommended numbers', async t => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const { shutdownDelay, drainTimeout, shutdownTimeout } = RECOMMENDED.options
  const grouped = (ms: number) => String(ms).replace(/(\d)(\d{3})$/, '$1_$2')
  const options = `{ shutdownDelay: ${grouped(shutdownDelay)}, drainTimeout: ${grouped(drainTimeout)}, shutdownTimeout: ${grouped(shutdownTimeout)} }`
  t.ok(readme.includes(options), options)
  t.ok(readme.includes(`terminationGracePeriodSeconds: ${RECOMMENDED.grace / 1_000}`))
  const file = readFileSync(new URL('../example/kubernetes/deployment.yaml', import.meta.url), 'utf8')
  const { spec: { template: { spec } } } = parse(file) as {
    spec: { template: { spec: { terminationGracePeriodSeconds: number, containers: [{ env: Array<{ name: string, value: string }> }] } } }
  }
  const config = readConfig(Object.fromEntries(spec.containers[0].env.map(({ name, value }) => [name, value])))
  t.equal(config.shutdownDelay, shutdownDelay)
  t.ok(config.drainTimeout >= drainTimeout)
  t.equal(config.shutdownTimeout, shutdownTimeout)
  t.equal(spec.terminationGracePeriodSeconds * 1_000, RECOMMENDED.grace)
})

t.test('a request meets in the plugin what it meets in the simulation', async t => {
  const settings = { shutdownDelay: 300, drainTimeout: 3_000 }
  const { app } = await createApp(t, settings)
  app.get('/', async () => 'served')
  const held = heldRoute(app)
  const port = await listen(app)
  const outcome = async (): Promise<string> => {
    const client = new RawClient(port).get('/')
    await client.closed
    if (client.error !== undefined) return 'nobody listens'
    return /^HTTP\/1\.1 (\d+)/.exec(client.text)?.[1] === '200' ? 'served' : 'refused'
  }
  const busy = new RawClient(port).get('/held')
  await held.entered
  const start = performance.now()
  const report = app.gracefulShutdown.shutdown()
  const asked: Array<{ at: number, met: string }> = []
  for (const phase of ['delaying', 'draining', 'closed'] as const) {
    await eventually(() => app.gracefulShutdown.phase === phase)
    asked.push({ at: performance.now() - start, met: await outcome() })
    if (phase === 'draining') held.release()
  }
  await Promise.all([busy.closed, report])
  const { phases: { delaying, draining } } = await report
  const requests = [{ at: -1, duration: delaying + draining - 110 }, ...asked.map(({ at }) => ({ at, duration: 1 }))]
  const [first, ...rest] = terminate({ options: resolveOptions(settings), preStop: 0, grace: 35_000 }, requests)
  t.equal(first, 'served')
  t.strictSame(asked.map(({ met }) => met), ['served', 'refused', 'nobody listens'])
  // Whether it is refused or finds nobody depends on when the last connection is gone; it is lost either way.
  t.strictSame(rest.map(met => met === 'served'), asked.map(({ met }) => met === 'served'))
})
