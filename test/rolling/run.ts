// Rolling restarts: three processes of the example behind a load balancer, under load that never retries; each
// instance is restarted in turn. `npm run test:rolling -- --help` shows the options.
//
// Exits with 1 if the plugin, with its delay, loses a request, or a process does not exit with 0; with --compare
// also if the number of requests lost without the delay is far from the simulation.

import type { BalancerName } from './balancers.ts'
import type { Drawn, Run, VariantName } from './report.ts'
import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { checked, simulate } from '../../example/simulation/rollout.ts'
import { resolveOptions } from '../../lib/options.ts'
import { BALANCERS, CHECKS, DELAY, freePort, START, REMOVAL_DELAY } from './balancers.ts'
import { Instance } from './instance.ts'
import { CLIENTS, startLoad } from './load.ts'
import { drawFailures, printFailures, table, toDrawn } from './report.ts'

/** The restarted programs, by their names in the report. */
const VARIANTS: Record<VariantName, { program: string, delay: number }> = {
  'fastify-graceful': { program: 'example/server.ts', delay: DELAY },
  'fastify-graceful, no delay': { program: 'example/server.ts', delay: 0 },
  'close-with-grace': { program: 'test/rolling/plain.ts', delay: 0 }
}
const INSTANCES = 3
/** Milliseconds of load before the first restart, and between restarts. */
const BETWEEN = 500
/** The largest accepted factor between the simulation and the measurement. */
const FACTOR = 3

const HELP = `npm run test:rolling -- [--restarts 3] [--balancer haproxy|nginx|direct] [--compare] [--write]

  --restarts N   how many restarts behind each balancer; default: 3, each instance once
  --balancer B   only behind this one
  --compare      also without a delay, and with close-with-grace alone
  --write        writes test/rolling/results.json and example/rolling.svg anew
`

const values = readFlags()
const restarts = Number(values.restarts)
const balancers = BALANCERS.filter(name => values.balancer === undefined || name === values.balancer)
if (values.help || !Number.isInteger(restarts) || restarts < 1 || balancers.length === 0) {
  console.log(HELP)
  process.exit(values.help ? 0 : 1)
}

const directory = mkdtempSync(join(tmpdir(), 'fastify-graceful-rolling-'))
/** What must be killed however this ends. */
const started: Array<{ kill: () => void }> = []
process.on('exit', () => {
  for (const program of started) program.kill()
  rmSync(directory, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const runs: Run[] = []
const variants = Object.keys(VARIANTS) as VariantName[]
try {
  for (const balancer of balancers) {
    for (const variant of values.compare ? variants : variants.slice(0, 1)) {
      console.log(`${restarts} restarts of ${variant} behind ${balancer}…`)
      const run = await roll(balancer, variant)
      runs.push(run)
      printFailures(run)
    }
  }
} catch (error) {
  console.error((error as Error).message)
  process.exit(1)
}
console.log(`\n${table(runs)}`)
if (values.write) await write(runs.map(toDrawn))
const unexpected = runs.filter(isFarFromPrediction)
for (const { balancer, variant } of unexpected) console.error(`${variant} behind ${balancer} is far from what the simulation says`)
const failed = runs.some(({ variant, failed: { length }, unclean }) => variant === variants[0] && length + unclean > 0)
process.exit(failed || unexpected.length > 0 ? 1 : 0)

async function write (drawn: Drawn[]): Promise<void> {
  const root = new URL('../..', import.meta.url)
  await writeFile(new URL('test/rolling/results.json', root), `[\n${drawn.map(run => JSON.stringify(run)).join(',\n')}\n]\n`)
  await writeFile(new URL('example/rolling.svg', root), drawFailures(drawn))
}

function readFlags () {
  try {
    return parseArgs({
      options: {
        restarts: { type: 'string', default: String(INSTANCES) },
        balancer: { type: 'string' },
        compare: { type: 'boolean', default: false },
        write: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false }
      }
    }).values
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`)
    return process.exit(1)
  }
}

async function roll (balancerName: BalancerName, variant: VariantName): Promise<Run> {
  const { program, delay } = VARIANTS[variant]
  const home = mkdtempSync(join(directory, `${balancerName}-`))
  const instances: Instance[] = []
  for (let index = 0; index < INSTANCES; index++) {
    const files = { DATABASE: join(home, `${index}.sqlite`), METRICS_FILE: join(home, `${index}.prom`) }
    instances.push(new Instance(program, await freePort(), { ...files, SHUTDOWN_DELAY: String(delay) }))
  }
  started.push(...instances)
  const port = await freePort()
  // At once, so that a balancer that is not installed is reported at once.
  const [balancer] = await Promise.all([
    START[balancerName](home, instances.map(instance => instance.port), port, started),
    ...instances.map(async instance => { await instance.start() })
  ])

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
  const predicted = predict(balancerName, variant, load.requests / (time / 1_000))
  return { balancer: balancerName, variant, requests: load.requests, failed: load.failed, predicted, restartsAt, times, time, unclean }
}

/** Failures per restart, by the simulation; undefined for programs that it does not model. `rate` is the measured requests per second. */
function predict (balancer: BalancerName, variant: VariantName, rate: number): number | undefined {
  if (VARIANTS[variant].program !== 'example/server.ts') return undefined
  // Behind the first two, a client's connection does not belong to one instance; with `direct` it does, and there are no others.
  const toInstances = balancer === 'direct'
  const pods = 200
  const { lost } = simulate({
    pods,
    maxSurge: 0,
    maxUnavailable: 1,
    startUp: 0,
    probePeriod: 0,
    proxies: 1,
    rate: toInstances ? 0 : rate / INSTANCES,
    connections: toInstances ? Math.round(CLIENTS / INSTANCES) : 0,
    // From zero to this: half of it on average.
    pause: 2_000 * CLIENTS / rate,
    propagation: balancer === 'haproxy' ? checked(CHECKS.inter, CHECKS.fall) : () => () => REMOVAL_DELAY,
    median: 20,
    longest: 50,
    cleanup: 0,
    settings: { options: resolveOptions({ shutdownDelay: VARIANTS[variant].delay }), preStop: 0, grace: 60_000 }
  }, 1)
  return lost / pods
}

function isFarFromPrediction ({ failed: { length }, times, predicted = 0 }: Run): boolean {
  const perRestart = length / times.length
  return predicted > 0 && (perRestart > predicted * FACTOR || perRestart < predicted / FACTOR)
}
