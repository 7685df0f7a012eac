// Chaos: random shutdowns of real processes under random clients, compared with a model. `npm run chaos -- --help` shows the options.
//
// Exits with 1 if an invariant of invariants.ts is violated; then it prints the smallest scenario that it has found.

import type { Scenario } from './scenario.ts'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createCredentials } from '../credentials.ts'
import { buildPlugin } from '../packages.ts'
import { readFlags } from '../flags.ts'
import { BUILT, bundleService } from './bundle.ts'
import { type Verdict, check, describe, tellAll } from './check.ts'
import { FAULTS, inject } from './faults.ts'
import { type Stage, endAll, prepare } from './play.ts'
import { scenarioOf, search, seedsOf } from './search.ts'
import { testInvariants } from './self-test.ts'

const HELP = `npm run chaos -- [--runs 150] [--jobs 4] [--seed S] [--keep-going]
npm run chaos -- --seed S --path P [--repeat N]
npm run chaos -- --scenario FILE [--repeat N]
npm run chaos -- --self-test [--only TEXT]

  --runs N       how many runs; default: 150, half of them with a fixed seed, half with a new one
  --jobs N       how many at the same time; default: 4
  --seed S       draws the runs with this seed
  --keep-going   after a failure, goes on with other runs
  --path P       only the run with this path, as a failure prints it with its seed
  --scenario F   only the scenario in this file, as a failure prints it; - for stdin
  --repeat N     so many times; default: 1
  --self-test    puts faults into copies of the built package, and expects that each is found
  --only TEXT    only the faults whose description has this text
  --node PATH    the Node.js binary that runs the service; default: this one
  --record DIR   writes what each failing run has shown to a file in this folder
  --built        takes dist/index.js as it is, for several of these at the same time
`

const { values } = readFlags(HELP, {
  options: {
    runs: { type: 'string', default: '150' },
    jobs: { type: 'string', default: '4' },
    seed: { type: 'string' },
    'keep-going': { type: 'boolean', default: false },
    path: { type: 'string' },
    scenario: { type: 'string' },
    repeat: { type: 'string', default: '1' },
    'self-test': { type: 'boolean', default: false },
    only: { type: 'string' },
    node: { type: 'string', default: process.execPath },
    record: { type: 'string' },
    built: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
const runs = Number(values.runs)
const jobs = Number(values.jobs)
if (values.help || !(runs >= 1) || !(jobs >= 1)) {
  console.log(HELP)
  process.exit(values.help ? 0 : 1)
}

const directory = mkdtempSync(join(tmpdir(), 'fastify-graceful-chaos-'))
process.on('exit', () => {
  endAll()
  rmSync(directory, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

if (!values.built) buildPlugin()
// Otherwise, only --self-test would notice that a fault no longer fits.
const built = readFileSync(BUILT, 'utf8')
for (const fault of FAULTS) inject(fault, built)
const { key, cert } = await createCredentials()
const stage = await createStage('service')
let done = 0

const failed = await main()
process.exit(failed > 0 ? 1 : 0)

/** Returns how many runs have failed. */
async function main (): Promise<number> {
  const { scenario, path, seed } = values
  if (values['self-test']) return await testInvariants(createStage, jobs, values.only)
  if (scenario !== undefined) return await repeat(JSON.parse(readFileSync(scenario === '-' ? 0 : scenario, 'utf8')) as Scenario)
  if (path !== undefined) return await repeat(scenarioOf(Number(seed), path))
  return await draw()
}

async function createStage (name: string, change?: (source: string) => string): Promise<Stage> {
  const file = join(directory, `${name}.mjs`)
  await bundleService(file, change)
  return { node: values.node, file, tls: { key, cert } }
}

/** Runs a scenario. Returns what is wrong, by invariant. */
async function run (scenario: Scenario): Promise<Verdict['found']> {
  prepare(stage)
  const verdict = await check(stage, scenario)
  done++
  if (verdict.found.size > 0 && values.record !== undefined) {
    mkdirSync(values.record, { recursive: true })
    writeFileSync(join(values.record, `${process.pid}-${done}.txt`), tellAll(verdict))
  }
  return verdict.found
}

async function repeat (scenario: Scenario): Promise<number> {
  let failures = 0
  for (let round = 0; round < Number(values.repeat); round++) {
    const found = await run(scenario)
    if (found.size === 0) continue
    failures++
    console.log(describe(found))
  }
  console.log(`${done} runs, ${failures} failed`)
  return failures
}

async function draw (): Promise<number> {
  const start = performance.now()
  const seeds = seedsOf(values.seed, Math.min(jobs, runs))
  const searches = seeds.map(async (seed, index) => {
    prepare(stage)
    return await search(run, seed, Math.ceil((runs - index) / seeds.length), values['keep-going'])
  })
  let failures = 0
  for (const count of await Promise.all(searches)) failures += count
  const { user, system } = process.cpuUsage()
  const time = ((performance.now() - start) / 1_000).toFixed(1)
  console.log(`${done} runs in ${time} s, ${failures} failed; the clients took ${((user + system) / 1e3 / done).toFixed(0)} ms of processor time a run`)
  return failures
}
