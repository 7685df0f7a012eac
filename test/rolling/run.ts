// Rolling restarts: three processes of the example behind a real balancer, under load that never tries twice; each
// instance is restarted in turn. `npm run test:rolling -- --help` tells what may be asked for.
//
// Exits with 1 if the plugin, given its delay, loses a single request, or a process does not exit with 0.

import type { BalancerName } from './balancers.ts'
import type { Run, VariantName } from './report.ts'
import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { checked, simulate } from '../../example/simulation/rollout.ts'
import { resolveOptions } from '../../lib/options.ts'
import { BALANCERS, CHECKS, freePort, startBalancer, TOLD_LATE } from './balancers.ts'
import { Instance } from './instance.ts'
import { CLIENTS, PACE, startLoad } from './load.ts'
import { drawFailures, printFailures, table } from './report.ts'

/** What is restarted, by the name that the report gives it. */
const VARIANTS: Record<VariantName, { program: string, delay: number }> = {
  'fastify-graceful': { program: 'example/server.ts', delay: 1_000 },
  'fastify-graceful, no delay': { program: 'example/server.ts', delay: 0 },
  'close-with-grace': { program: 'test/rolling/plain.ts', delay: 0 }
}
const INSTANCES = 3
/** Milliseconds of load before the first restart, and between two. */
const BETWEEN = 500

const HELP = `npm run test:rolling -- [--restarts 3] [--balancer haproxy|nginx] [--compare] [--picture file.svg]

  --restarts N   how many restarts behind each balancer; default: 3, each instance once
  --balancer B   only behind this one
  --compare      also without a delay, and with close-with-grace alone
  --picture F    draws the failures over time
`

const { values } = parseArgs({
  options: {
    restarts: { type: 'string', default: String(INSTANCES) },
    balancer: { type: 'string' },
    compare: { type: 'boolean', default: false },
    picture: { type: 'string' },
    help: { type: 'boolean', default: false }
  }
})
const restarts = Number(values.restarts)
const balancers = BALANCERS.filter(name => values.balancer === undefined || name === values.balancer)
if (values.help || !Number.isInteger(restarts) || restarts < 1 || balancers.length === 0) {
  console.log(HELP)
  process.exit(values.help ? 0 : 1)
}

const directory = mkdtempSync(join(tmpdir(), 'fastify-graceful-rolling-'))
/** What must not stay behind, however this ends. */
const started: Array<{ kill: () => void }> = []
process.on('exit', () => {
  for (const program of started) program.kill()
  rmSync(directory, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const runs: Run[] = []
const variants = Object.keys(VARIANTS) as VariantName[]
for (const balancer of balancers) {
  for (const variant of values.compare ? variants : variants.slice(0, 1)) {
    console.log(`${restarts} restarts of ${variant} behind ${balancer}…`)
    const run = await roll(balancer, variant)
    runs.push(run)
    printFailures(run)
  }
}
console.log(`\n${table(runs)}`)
if (values.picture !== undefined) await writeFile(values.picture, drawFailures(runs))
process.exit(runs.some(({ variant, failed, unclean }) => variant === variants[0] && failed.length + unclean > 0) ? 1 : 0)

async function roll (balancerName: BalancerName, variant: VariantName): Promise<Run> {
  const { program, delay } = VARIANTS[variant]
  const home = mkdtempSync(join(directory, `${balancerName}-`))
  const instances: Instance[] = []
  for (let index = 0; index < INSTANCES; index++) {
    const files = { DATABASE: join(home, `${index}.sqlite`), METRICS_FILE: join(home, `${index}.prom`) }
    instances.push(new Instance(program, await freePort(), { ...files, SHUTDOWN_DELAY: String(delay) }))
  }
  started.push(...instances)
  await Promise.all(instances.map(async instance => { await instance.start() }))
  const balancer = await startBalancer(balancerName, home, instances.map(({ port }) => port))
  started.push(balancer)

  const load = startLoad(balancer.port, balancer.keepsClients)
  const start = performance.now()
  const times: number[] = []
  const restartsAt: number[] = []
  let unclean = 0
  for (let index = 0; index < restarts; index++) {
    await sleep(BETWEEN)
    const instance = instances[index % INSTANCES] as Instance
    const begin = performance.now()
    restartsAt.push(Math.round(begin - start))
    const [code] = await Promise.all([instance.stop(), balancer.leaves(instance.port)])
    if (code !== 0) unclean++
    await instance.start()
    await balancer.returns(instance.port)
    times.push(performance.now() - begin)
  }
  await sleep(BETWEEN)
  await load.stop()
  const time = performance.now() - start
  balancer.kill()
  for (const instance of instances) instance.kill()
  const predicted = predict(balancerName, variant)
  return { balancer: balancerName, variant, requests: load.requests, failed: load.failed, predicted, restartsAt, times, time, unclean }
}

/** Failures per restart, by the simulation; undefined for what it does not know. */
function predict (balancer: BalancerName, variant: VariantName): number | undefined {
  if (VARIANTS[variant].program !== 'example/server.ts') return undefined
  const isHaproxy = balancer === 'haproxy'
  const pods = 200
  const { lost } = simulate({
    pods,
    maxSurge: 1,
    startUp: 0,
    probePeriod: 0,
    proxies: 1,
    // A client that is refused is back as soon as its pace lets it.
    rate: CLIENTS / (isHaproxy ? PACE.keptAlive : PACE.connecting) * 1_000 / INSTANCES,
    propagation: isHaproxy ? checked(CHECKS.inter, CHECKS.fall) : () => TOLD_LATE,
    median: 20,
    longest: 50,
    settings: { options: resolveOptions({ shutdownDelay: VARIANTS[variant].delay }), preStop: 0, grace: 60_000 }
  }, 1)
  return lost / pods
}
