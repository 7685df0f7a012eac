// Chaos: random shutdowns of real processes under random clients, compared with a model. `npm run chaos -- --help` shows the options.
//
// Exits with 1 if an invariant of invariants.ts is violated; then it prints the smallest scenario that it has found.

import type { Scenario } from './scenario.ts'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import * as fc from 'fast-check'
import { generate } from 'selfsigned'
import { buildPlugin } from '../packages.ts'
import { bundleService } from './bundle.ts'
import { type Verdict, check, describe, tellAll } from './check.ts'
import { scenario as scenarios } from './draw.ts'
import { type Fault, FAULTS, inject } from './faults.ts'
import { type Stage, endAll, prepare } from './play.ts'

const HELP = `npm run chaos -- [--runs 150] [--jobs 4] [--seed S [--path P]] [--node PATH] [--keep-going] [--built] [--record DIR]
npm run chaos -- --scenario FILE [--repeat N] [--record DIR]
npm run chaos -- --self-test [--only TEXT]

  --runs N       how many runs; default: 150, half of them with a fixed seed
  --jobs N       how many at the same time; default: 4
  --seed S       draws the runs with this seed
  --path P       only the run with this path, as a failure prints it
  --node PATH    the Node.js binary that runs the service; default: this one
  --built        takes dist/index.js as it is, for several of these at the same time
  --keep-going   after a failure, goes on with other runs
  --scenario F   only the scenario in this file; - for stdin
  --self-test    puts faults into copies of the built package, and expects that each is found
  --only TEXT    only the faults whose description has this text
  --repeat N     the scenario so many times; default: 1
  --record DIR   writes what each failing run has shown to a file in this folder
`

/** The seed of the runs that are the same each time. */
const FIXED_SEED = 1

/** How many runs a fault has to show in. */
const MOST_TRIES = 160

/** How many scenarios are tried to make a failing one smaller. */
const MOST_SHRINKS = 60

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '150' },
    jobs: { type: 'string', default: '4' },
    seed: { type: 'string' },
    path: { type: 'string' },
    node: { type: 'string', default: process.execPath },
    'keep-going': { type: 'boolean', default: false },
    scenario: { type: 'string' },
    repeat: { type: 'string', default: '1' },
    record: { type: 'string' },
    built: { type: 'boolean', default: false },
    only: { type: 'string' },
    'self-test': { type: 'boolean', default: false },
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
const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], { keyType: 'ec' })
const stage = await createStage('service')
let done = 0
let failed = 0
const isFound = new Set<Fault>()

if (values['self-test']) await testInvariants()
else if (values.scenario === undefined) await draw()
else await repeat(JSON.parse(readFileSync(values.scenario === '-' ? 0 : values.scenario, 'utf8')) as Scenario)
process.exit(failed > 0 ? 1 : 0)

async function createStage (name: string, change?: (source: string) => string): Promise<Stage> {
  const file = join(directory, `${name}.mjs`)
  await bundleService(file, change)
  return { node: values.node, file, tls: { key, cert } }
}

/** Runs a scenario. Returns what is wrong, by invariant. */
async function run (scenario: Scenario): Promise<Verdict['found']> {
  const verdict = await check(stage, scenario)
  done++
  if (verdict.found.size > 0 && values.record !== undefined) {
    mkdirSync(values.record, { recursive: true })
    writeFileSync(join(values.record, `${process.pid}-${done}.txt`), tellAll(verdict))
  }
  return verdict.found
}

async function repeat (scenario: Scenario): Promise<void> {
  for (let round = 0; round < Number(values.repeat); round++) {
    const found = await run(scenario)
    if (found.size === 0) continue
    failed++
    console.log(describe(found))
  }
  console.log(`${done} runs, ${failed} failed`)
}

async function draw (): Promise<void> {
  const started = performance.now()
  const fresh = Math.trunc(Math.random() * 0x7fffffff)
  const parts = values.path === undefined ? Math.min(jobs, runs) : 1
  for (let part = 0; part < parts; part++) prepare(stage)
  await Promise.all(Array.from({ length: parts }, async (_, part) => {
    const isFixed = values.seed === undefined && part % 2 === 0
    const seed = values.seed === undefined ? (isFixed ? FIXED_SEED : fresh) + part : Number(values.seed) + part
    await drawPart(seed, Math.ceil((runs - part) / parts))
  }))
  const { user, system } = process.cpuUsage()
  console.log(`${done} runs in ${((performance.now() - started) / 1_000).toFixed(1)} s, ${failed} failed; the clients used ${((user + system) / 1e3 / done).toFixed(0)} ms of processor time a run; Node ${values.node}`)
}

async function drawPart (seed: number, count: number): Promise<void> {
  let left = count
  for (let next = seed; left > 0; next += 1_000_003) {
    console.log(`seed ${next}: ${left} runs`)
    let shrinks = 0
    /** The invariants that the first failing run has violated: a smaller scenario has to violate one of them. */
    let violated: string[] | undefined
    const property = fc.asyncProperty(scenarios, async scenario => {
      if (violated !== undefined && ++shrinks > MOST_SHRINKS) return
      prepare(stage)
      const found = await run(scenario)
      if (found.size === 0 || violated?.some(name => found.has(name)) === false) return
      if (violated === undefined) console.log(`seed ${next}:\n${describe(found)}\n${JSON.stringify(scenario)}\nMaking it smaller…`)
      violated ??= [...found.keys()]
      throw new Error(describe(found))
    })
    const result = await fc.check(property, {
      seed: next, numRuns: left, ...values.path !== undefined && { path: values.path, endOnFailure: true }
    })
    if (!result.failed) return
    failed++
    console.log(`FAILED: --seed ${next} --path ${result.counterexamplePath}\n${(result.errorInstance as Error).message}\n${JSON.stringify(result.counterexample?.[0])}`)
    left -= result.numRuns
    if (!values['keep-going'] || values.path !== undefined) return
  }
}

/** Expects that the invariants find each fault, within some random runs. */
async function testInvariants (): Promise<void> {
  for (const [index, fault] of FAULTS.entries()) {
    if (values.only !== undefined && !fault.what.includes(values.only)) continue
    const faulty = await createStage(`fault-${index}`, source => inject(fault, source))
    const searches = await Promise.all(Array.from({ length: jobs }, async (_, job) => await findFault(fault, faulty, job)))
    const found = searches.find(text => text !== undefined)
    if (found === undefined) failed++
    console.log(`${found === undefined ? 'NOT FOUND' : 'found'}: ${fault.what} (${fault.violates.join(', ')})${found ?? ''}`)
  }
  console.log(`${FAULTS.length} faults, ${failed} not found, ${done} runs`)
}

async function findFault (fault: Fault, faulty: Stage, job: number): Promise<string | undefined> {
  const drawn = fault.scenario === undefined
    ? fc.sample(scenarios, { seed: FIXED_SEED + job, numRuns: MOST_TRIES / jobs })
    : Array<Scenario>(5).fill(fault.scenario)
  for (const [round, scenario] of drawn.entries()) {
    if (isFound.has(fault)) return undefined
    const { found } = await check(faulty, scenario)
    done++
    if (!fault.violates.some(name => found.has(name))) continue
    isFound.add(fault)
    return ` after ${round + 1} runs`
  }
  return undefined
}
