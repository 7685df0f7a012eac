// `npm run bench`: what the plugin costs, compared with other packages. `-- --help` shows the options.
//
// Exits with 1 if a limit is missed.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from './build.ts'
import { drawCharts } from './charts.ts'
import { measureExit } from './exit.ts'
import { measureGrowth } from './growth.ts'
import { countInstructions } from './instructions.ts'
import { measureLoading } from './loading.ts'
import { measureMemory } from './memory.ts'
import { median } from './numbers.ts'
import { BUDGETS, judge, LOADS, PARTS, type Counts, type LoadName, type Part, type Results, type Verdict } from './results.ts'
import { OURS, PAIR, SUBJECTS, WATCHED } from './subjects.ts'
import { grouped, tables } from './tables.ts'
import { measureRefusals, measureThroughput } from './throughput.ts'

const HELP = `npm run bench -- [--only ${PARTS.join(',')}] [--short]

  --only LIST  only these parts; writes nothing
  --short      only instructions, of the plugin and of what its budgets compare it with; one process per count; writes nothing

instructions needs valgrind, throughput and refusals need wrk. Without options, bench/results is written anew.
`

/** Several processes: V8 does not optimize the same code in each; with the logger, it differs most. */
const PROCESSES: Record<LoadName, number> = { 'without a logger': 3, 'with the logger': 7, 'without a logger, pipelined 16 deep': 3 }
const SIZES = { warmUp: 60_000, settle: 10_000, window: 2_000, windows: 7 }
const PLAN = { rounds: 5, seconds: 3 }
/** Exits to measure, by the number of idle connections. Without idle connections an exit is short and needs more measurements. */
const EXITS = { 0: 45, 10_000: 15 }
const MEMORY = { runs: 1, connections: 10_000 }
const STARTS = 31
const GROWTH = { runs: 3, connections: [1, 10, 100, 1_000, 10_000] }

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const OUT = join(ROOT, 'bench/results')

const asked = readArguments()
const directory = build()

/** The instructions of the plugin and of what its budgets compare it with. */
async function checkInstructions (): Promise<void> {
  if (isMissing('valgrind')) throw new Error('valgrind is missing')
  const instructions: Results['instructions'] = {}
  for (const { load, than, guard } of BUDGETS) {
    const counts = await count([than, OURS], load, 1)
    instructions[load] = counts
    for (const [subject, processes] of Object.entries(counts)) {
      console.log(`${subject}, ${load}: ${grouped(median(processes))} instructions a request`)
    }
    const factor = median(counts[OURS] ?? []) / median(counts[than] ?? [])
    if (factor <= guard) continue
    console.log(`TOO MUCH  × ${factor.toFixed(3)} of ${than}, ${load}: at most ${guard} after a change`)
    process.exitCode = 1
  }
  show(judge({ ...here(), notMeasured: {}, instructions }))
}

async function measureAll (): Promise<void> {
  const results: Results = { ...here(), notMeasured: {} }
  for (const part of asked.parts) {
    console.error(`${part}…`)
    const tool = TOOLS[part]
    if (tool !== undefined && isMissing(tool)) results.notMeasured[part] = tool
    else await MEASURE[part](results)
  }
  console.log(tables(results))
  report(judge(results))
  if (asked.parts.length === PARTS.length) write(results)
}

function show (verdicts: readonly Verdict[]): void {
  for (const { what, holds } of verdicts) console.log(`${holds ? 'holds ' : 'MISSED'}  ${what}`)
}

function report (verdicts: readonly Verdict[]): void {
  show(verdicts)
  if (!verdicts.every(({ holds }) => holds)) process.exitCode = 1
}

/** All results are from one run: those of an earlier run are removed. */
function write (results: Results): void {
  rmSync(OUT, { recursive: true, force: true })
  mkdirSync(OUT)
  writeFileSync(join(OUT, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  writeFileSync(join(OUT, 'results.md'), `${tables(results)}\n`)
  for (const [name, svg] of Object.entries(drawCharts(results))) writeFileSync(join(OUT, `${name}.svg`), svg)
}

const subjects = (): string[] => Object.keys(SUBJECTS).filter(subject => subject !== WATCHED)
/** The subjects that handle a shutdown, and bare Fastify. */
const closers = (): string[] => subjects().filter(subject => subject !== PAIR && subject !== '@fastify/under-pressure')

const TOOLS: Partial<Record<Part, string>> = { instructions: 'valgrind', throughput: 'wrk', refusals: 'wrk' }

const MEASURE: Record<Part, (results: Results) => Promise<void>> = {
  instructions: async results => {
    results.instructions = {}
    for (const load of Object.keys(LOADS) as LoadName[]) {
      results.instructions[load] = await count(Object.keys(SUBJECTS), load, PROCESSES[load])
    }
  },
  throughput: async results => {
    results.throughput = await measureThroughput(directory, subjects(), PLAN)
  },
  exit: async results => {
    results.exit = {}
    for (const [connections, runs] of Object.entries(EXITS)) {
      const idle = Number(connections)
      const times: Record<string, number[]> = Object.fromEntries(closers().map(subject => [subject, []]))
      for (let run = 0; run < runs; run++) {
        for (const subject of closers()) times[subject]?.push(await measureExit(directory, subject, idle))
      }
      results.exit[idle] = Object.fromEntries(Object.entries(times).map(([subject, all]) => [subject, Number(median(all).toFixed(2))]))
    }
  },
  memory: async results => {
    results.memory = {}
    for (const subject of subjects()) {
      const runs = []
      for (let run = 0; run < MEMORY.runs; run++) runs.push(await measureMemory(directory, subject, MEMORY.connections))
      results.memory[subject] = { idle: median(runs.map(({ idle }) => idle)), inFlight: median(runs.map(({ inFlight }) => inFlight)) }
    }
  },
  refusals: async results => {
    results.refusals = await measureRefusals(directory, PLAN)
  },
  growth: async results => {
    results.growth = []
    for (const connections of GROWTH.connections) results.growth.push(await measureGrowth(directory, connections, GROWTH.runs))
  },
  loading: async results => {
    results.loading = measureLoading(directory, STARTS)
  }
}

/** As many processes at a time as there are cores. On a busy machine, all counts are somewhat higher. */
async function count (names: readonly string[], load: LoadName, processes: number): Promise<Counts> {
  const counts: Counts = Object.fromEntries(names.map(name => [name, []]))
  const left = Array.from({ length: processes }, (_, index) => names.map(name => ({ name, seed: index + 1 }))).flat()
  await Promise.all(Array.from({ length: availableParallelism() }, async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      counts[next.name]?.push(await countInstructions(directory, next.name, LOADS[load], SIZES, next.seed))
    }
  }))
  return counts
}

function isMissing (tool: string): boolean {
  return spawnSync(tool, ['--version']).error !== undefined
}

/** The machine, the versions and the date. */
function here (): Pick<Results, 'machine' | 'versions' | 'date'> {
  const versionOf = (name: string) => (JSON.parse(readFileSync(join(ROOT, 'node_modules', name, 'package.json'), 'utf8')) as { version: string }).version
  const peers = subjects().filter(name => existsSync(join(ROOT, 'node_modules', name, 'package.json')))
  return {
    machine: `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores`,
    versions: { 'Node.js': process.versions.node, ...Object.fromEntries(['fastify', ...peers].map(name => [name, versionOf(name)])) },
    date: new Date().toISOString().slice(0, 10)
  }
}

function readArguments (): { short: boolean, parts: readonly Part[] } {
  const fail = (message: string): never => {
    console.error(`${message}\n\n${HELP}`)
    return process.exit(1)
  }
  const { only, short, help } = readFlags(fail)
  if (help) {
    console.log(HELP)
    process.exit(0)
  }
  if (short && only !== undefined) fail('--short measures instructions only: it goes without --only')
  const parts = only?.split(',') ?? PARTS
  const unknown = parts.find(part => !(PARTS as readonly string[]).includes(part))
  if (unknown !== undefined) fail(`There is nothing to measure that is called "${unknown}"`)
  return { short, parts: PARTS.filter(part => parts.includes(part)) }
}

function readFlags (fail: (message: string) => never): { only?: string, short: boolean, help: boolean } {
  try {
    return parseArgs({
      options: { only: { type: 'string' }, short: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } }
    }).values
  } catch (error) {
    return fail((error as Error).message)
  }
}

await (asked.short ? checkInstructions() : measureAll())
