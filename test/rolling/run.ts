// Rolling restarts: three processes behind a load balancer, under load that never retries; each instance is restarted in turn.
// `npm run test:rolling -- --help` shows the options.
//
// Exits with 1 if the plugin, with a fixed or an adaptive delay, loses a request; if the adaptive delay takes, in the median, more than a
// third of the fixed one; if a process with the plugin does not exit with 0; if a load balancer does not accept its configuration on a
// page; with --compare also if the number of requests lost without a delay is far from the simulation.

import type { BalancerName, Kind } from './balancers.ts'
import type { Load } from './load.ts'
import type { Result, Run, SubjectName } from './report.ts'
import { mkdtempSync, rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { checked, simulate } from '../../example/simulation/rollout.ts'
import { resolveOptions } from '../../lib/options.ts'
import { installPackages } from '../packages.ts'
import { readFlags } from '../flags.ts'
import { freePort } from '../helpers.ts'
import { BALANCERS, CHECKS, QUIET, REMOVAL } from './balancers.ts'
import { Instance } from './instance.ts'
import { clientsOf, startLoad } from './load.ts'
import { drawRestarts, isAdaptiveSlow, printFailures, table, toResult, withTable } from './report.ts'
import { refusedSnippets } from './snippets.ts'

interface Subject {
  program: string
  /** Whether shutdownDelay is as long as the slowest removal requires. */
  delays: boolean
  /** Milliseconds without a request that end the delay. */
  quiet?: number
}

/** The restarted programs, by their names in the report. */
const SUBJECTS: Record<SubjectName, Subject> = {
  'adaptive delay': { program: 'example/server.ts', delays: true, quiet: QUIET },
  'fixed delay': { program: 'example/server.ts', delays: true },
  'no delay': { program: 'example/server.ts', delays: false },
  'close-with-grace': { program: 'test/rolling/close-with-grace.ts', delays: true },
  terminus: { program: 'test/rolling/terminus.ts', delays: true }
}
/** These must lose nothing. */
const OURS: ReadonlySet<SubjectName> = new Set(['adaptive delay', 'fixed delay'])
const INSTANCES = 3
/** How often a run with lost requests is repeated, if its load balancer took running instances for down. */
const REPEATS = 2
/** Milliseconds of load before the first restart, and between restarts. */
const BETWEEN = 500
/** The largest accepted factor between the simulation and the measurement. On a busy machine, checks are late and the rate varies. */
const FACTOR = 4

const HELP = `npm run test:rolling -- [--restarts 3] [--balancer NAME] [--subject NAME] [--delay MS] [--compare] [--write]

  --restarts N   how many restarts behind each balancer; default: 3, each instance once
  --balancer B   only behind this one: ${Object.keys(BALANCERS).join(', ')}
  --subject S    only this one: ${Object.keys(SUBJECTS).join(', ')}
  --delay MS     the fixed delay, to find out how short it may be; with it, losses are no error
  --compare      also without a delay, and with close-with-grace and @godaddy/terminus, with the fixed delay
  --write        writes test/rolling/results.json, example/rolling.svg and the table in docs/load-balancer-tests.md anew; what
                 this run has not measured stays
`

const { values } = readFlags(HELP, {
  options: {
    restarts: { type: 'string', default: String(INSTANCES) },
    balancer: { type: 'string' },
    subject: { type: 'string' },
    delay: { type: 'string' },
    compare: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
const restarts = Number(values.restarts)
const givenDelay = values.delay === undefined ? undefined : Number(values.delay)
const balancers = (Object.keys(BALANCERS) as BalancerName[]).filter(name => values.balancer === undefined || name === values.balancer)
if (values.help || !Number.isInteger(restarts) || restarts < 1 || balancers.length === 0 || Number.isNaN(givenDelay)) {
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
/** How late the clients are, because they share the processors with everything else. */
const lag = monitorEventLoopDelay()
lag.enable()
const subjects = (Object.keys(SUBJECTS) as SubjectName[]).filter(name =>
  values.subject === undefined ? values.compare || OURS.has(name) : name === values.subject)
/** Where terminus is. */
const modules = subjects.includes('terminus') ? installPackages('comparison').modules : ''
try {
  for (const balancer of balancers) {
    for (const subject of givenDelay === undefined ? subjects : ['fixed delay'] as const) {
      console.log(`${restarts} restarts of ${subject} behind ${balancer}…`)
      let run = await roll(balancer, subject)
      printFailures(run)
      for (let again = 0; again < REPEATS && run.failed.length > 0 && run.lateChecks > 0; again++) {
        console.log(`${run.lateChecks} checks have timed out, because the machine is busy; once more…`)
        run = await roll(balancer, subject)
        printFailures(run)
      }
      runs.push(run)
    }
  }
} catch (error) {
  console.error((error as Error).message)
  process.exit(1)
}
const results = runs.map(toResult)
console.log(`\n${table(results)}\n`)
console.log(`Load average ${loadavg()[0]?.toFixed(1)}; the event loop of the clients was up to ${Math.round(lag.max / 1e6)}ms late`)
if (values.write) await write(results)
if (givenDelay !== undefined) process.exit(0)
const faults = [
  ...results.filter(({ subject, lost, unclean }) => OURS.has(subject) && lost.kept + lost.new + unclean > 0)
    .map(({ balancer, subject }) => `${subject} behind ${balancer} has lost requests, or did not exit with 0`),
  ...balancers.filter(balancer => isAdaptiveSlow(results.filter(result => result.balancer === balancer)))
    .map(balancer => `The adaptive delay behind ${balancer} takes more than a third of the fixed one`),
  ...runs.filter(isFarFromPrediction)
    .map(({ balancer, subject, predicted }) => `${subject} behind ${balancer}: the simulation says ${predicted?.toFixed(1)} failures per restart`),
  ...balancers.flatMap(balancer => refusedSnippets(balancer, directory))
]
for (const fault of faults) console.error(fault)
process.exit(faults.length > 0 ? 1 : 0)

async function write (measured: Result[]): Promise<void> {
  const root = new URL('../..', import.meta.url)
  const stored = JSON.parse(await readFile(new URL('test/rolling/results.json', root), 'utf8')) as Result[]
  const written = stored.map(old => measured.find(({ balancer, subject }) => balancer === old.balancer && subject === old.subject) ?? old)
  const page = new URL('docs/load-balancer-tests.md', root)
  await writeFile(new URL('test/rolling/results.json', root), `[\n${written.map(result => JSON.stringify(result)).join(',\n')}\n]\n`)
  await writeFile(new URL('example/rolling.svg', root), drawRestarts(written))
  await writeFile(page, withTable(await readFile(page, 'utf8'), written))
}

async function roll (balancerName: BalancerName, subject: SubjectName): Promise<Run> {
  const { program, delays, quiet } = SUBJECTS[subject]
  const kind: Kind = BALANCERS[balancerName]
  const delay = delays ? givenDelay ?? kind.delay : 0
  const home = mkdtempSync(join(directory, `${balancerName}-`))
  const instances: Instance[] = []
  for (let index = 0; index < INSTANCES; index++) {
    instances.push(new Instance(program, await freePort(), join(home, `${index}.log`), {
      DATABASE: join(home, `${index}.sqlite`),
      METRICS_FILE: join(home, `${index}.prom`),
      SHUTDOWN_DELAY: String(delay),
      SHUTDOWN_QUIET: String(quiet ?? delay),
      HTTP2: kind.isHttp2 ? '1' : '0',
      MODULES: modules
    }))
  }
  started.push(...instances)
  const port = await freePort()
  await Promise.all(instances.map(async instance => { await instance.start() }))
  // Now, because HAProxy takes each instance for up until its first check.
  const balancer = await kind.start(home, instances.map(instance => instance.port), port, started)

  const load = startLoad(port, kind.keepsClients)
  const start = performance.now()
  const { requests, failed } = load
  const run: Run = {
    balancer: balancerName, subject, delay, delaying: [], requests, failed, restartsAt: [], unclean: 0, lateChecks: 0,
    predicted: undefined
  }
  for (let index = 0; index < restarts; index++) {
    await sleep(BETWEEN)
    const instance = instances[index % INSTANCES] as Instance
    run.restartsAt.push(Math.round(performance.now() - start))
    const removal = index % REMOVAL.slowOneIn === REMOVAL.slowOneIn - 1 ? REMOVAL.longest : REMOVAL.usual
    const [{ code, delaying }] = await Promise.all([instance.stop(), balancer.leaves(instance.port, removal)])
    run.delaying.push(delaying)
    if (code !== 0) run.unclean++
    await instance.start()
    await balancer.returns(instance.port)
  }
  await sleep(BETWEEN)
  await load.stop()
  run.predicted = subject === 'no delay' ? predict(kind, requests, performance.now() - start) : undefined
  run.lateChecks = balancer.lateChecks?.() ?? 0
  balancer.kill()
  for (const instance of instances) instance.kill()
  return run
}

/** Failures per restart without a delay, by the simulation. `requests` in `time` milliseconds were measured. */
function predict (kind: Kind, requests: Load['requests'], time: number): number {
  const clients = clientsOf(kind.keepsClients)
  // With `direct`, a client's kept connection belongs to one instance, and there are no others. Behind a proxy, it does not.
  const toInstances = kind === BALANCERS.direct
  const pods = 200
  const { lost } = simulate({
    pods,
    maxSurge: 0,
    maxUnavailable: 1,
    startUp: 0,
    probePeriod: 0,
    proxies: 1,
    rate: (toInstances ? requests.new : requests.new + requests.kept) / (time / 1_000) / INSTANCES,
    connections: toInstances ? Math.round(clients.kept / INSTANCES) : 0,
    // From zero to this: half of it on average.
    pause: 2 * time * clients.kept / requests.kept,
    propagation: kind.hasChecks
      ? checked(CHECKS.inter, CHECKS.fall)
      : random => () => random.next() < 1 / REMOVAL.slowOneIn ? REMOVAL.longest : REMOVAL.usual,
    median: 20,
    longest: 50,
    cleanup: 0,
    settings: { options: resolveOptions({ shutdownDelay: 0 }), preStop: 0, grace: 60_000 }
  }, 1)
  return lost / pods
}

function isFarFromPrediction ({ failed: { length }, delaying, predicted = 0 }: Run): boolean {
  const perRestart = length / delaying.length
  return predicted > 0 && (perRestart > predicted * FACTOR || perRestart < predicted / FACTOR)
}
