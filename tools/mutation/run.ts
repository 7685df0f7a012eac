// Mutation testing of index.ts and lib/: npm run mutation -- --help

import type { Mutant } from './instrument.ts'
import type { Result } from './tests.ts'
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { OTHER_TESTS, run } from './tests.ts'

const HELP = `Usage: npm run mutation -- [options]
  --jobs N         how many test files run at the same time (default 2)
  --file PATH      only mutants of this file; may be repeated
  --sample N       only a random sample of N mutants
  --seed S         the seed of the sample (default 1)
  --mutants IDS    only these, such as lib/clock.ts:3,lib/clock.ts:4
  --patience S     give up on a mutant after its tests have run for S seconds; it then counts as survived (default: never)
  --survivors      run the tests again for mutants that have survived
  --node PATH      run the tests with another Node.js
  --verbose        print the last lines of each test that fails
  --report         run nothing; print the results so far
  --record         also write them to tools/mutation/results.json, from which the next run on another machine goes on`

const { values: args } = parseArgs({
  options: {
    jobs: { type: 'string', default: '2' },
    file: { type: 'string', multiple: true },
    sample: { type: 'string' },
    seed: { type: 'string', default: '1' },
    mutants: { type: 'string' },
    patience: { type: 'string', default: 'Infinity' },
    survivors: { type: 'boolean', default: false },
    node: { type: 'string', default: process.execPath },
    verbose: { type: 'boolean', default: false },
    report: { type: 'boolean', default: false },
    record: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
if (args.help) {
  console.log(HELP)
  process.exit()
}
if (Number(process.versions.node.split('.')[0]) < 22) {
  console.error(`Mutation testing needs Node.js 22 or later, because Stryker does; this is ${process.version}`)
  process.exit(1)
}
const { copy, instrument } = await import('./instrument.ts')

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const STATE = `${ROOT}.mutation/`
const RESULTS = `${STATE}results.jsonl`
/** Part of the repository. */
const RECORD = 'tools/mutation/results.json'

/** How long a run may take: tests are slower while others run, and a mutant may need some time until it fails. */
const limitOf = (time: number) => 4_000 + 3 * time

/** The tests of a file, and which mutants each of them reaches. Those under '' are reached by code that belongs to no single test. */
interface Coverage {
  key: string
  isPassed: boolean
  /** From the start to the first test. */
  start: number
  times: Record<string, number>
  covered: Record<string, string[]>
}

interface Outcome {
  /** The mutant, and the content of its file. */
  key: string
  /** What the tests were. */
  tests: string
  status: 'killed' | 'survived' | 'uncovered'
  /** How many of the test files that reach it have not been run. */
  left: number
  killer?: { file: string, test: string | undefined, isTimedOut: boolean }
  runs: number
  time: number
}

/** What is known about a file: a mutant that is in no list has been killed. */
interface FileRecord {
  hash: string
  mutants: number
  untested: string[]
  notKilled: Array<Pick<Outcome, 'tests' | 'status' | 'left'> & { id: string }>
}

const hashOf = (...texts: string[]) => createHash('sha256').update(texts.join('\0')).digest('hex').slice(0, 12)
/** The files below a folder, by a pattern for their paths in it. */
const list = (folder: string, pattern: RegExp) => readdirSync(ROOT + folder, { recursive: true, withFileTypes: true })
  .filter(entry => entry.isFile()).map(entry => relative(ROOT, join(entry.parentPath, entry.name)))
  .filter(path => pattern.test(path.slice(folder.length + 1)) && !path.includes('node_modules')).sort()
const read = (path: string) => readFileSync(ROOT + path, 'utf8')

mkdirSync(STATE, { recursive: true })
const sources = await Promise.all(['index.ts', ...list('lib', /\.ts$/)].map(async file => await instrument(ROOT, file)))
const testFiles = list('test', /^(?:(?:process|system)\/)?[^/]+\.test\.ts$/).filter(file => !OTHER_TESTS.includes(file))
const sourceKey = hashOf(...sources.map(({ hash }) => hash))
const helperKey = hashOf(...list('test', /^[^/.]+\.(?:ts|mjs)$|^fixtures\//).map(read))
const testsKey = hashOf(helperKey, ...testFiles.map(read))

const hashes = new Map(sources.map(({ file, hash }) => [file, hash]))
const keyOf = ({ id, file }: Mutant) => `${id}@${hashes.get(file)}`
const outcomes = new Map<string, Outcome>()
if (existsSync(ROOT + RECORD)) readRecord(JSON.parse(read(RECORD)) as Record<string, FileRecord>)
if (existsSync(RESULTS)) {
  for (const line of readFileSync(RESULTS, 'utf8').split('\n').filter(text => text !== '')) {
    const outcome = JSON.parse(line) as Outcome
    outcomes.set(outcome.key, outcome)
  }
}

/** Takes over the results for files that have not changed since. */
function readRecord (record: Record<string, FileRecord>): void {
  for (const { file, hash, mutants } of sources) {
    const known = record[file]
    if (known?.hash !== hash || known.mutants !== mutants.length) continue
    for (const mutant of mutants.filter(({ id }) => !known.untested.includes(id))) {
      const { tests = '', status = 'killed', left = 0 } = known.notKilled.find(({ id }) => id === mutant.id) ?? {}
      const key = keyOf(mutant)
      outcomes.set(key, { key, tests, status, left, runs: 0, time: 0 })
    }
  }
}

function writeRecord (): void {
  const record: Record<string, FileRecord> = {}
  for (const { file, hash, mutants } of sources) {
    const row: FileRecord = { hash, mutants: mutants.length, untested: [], notKilled: [] }
    for (const mutant of mutants) {
      const outcome = outcomes.get(keyOf(mutant))
      if (outcome === undefined) row.untested.push(mutant.id)
      else if (outcome.status !== 'killed') row.notKilled.push({ id: mutant.id, tests: outcome.tests, status: outcome.status, left: outcome.left })
    }
    if (row.untested.length < mutants.length) record[file] = row
  }
  writeFileSync(ROOT + RECORD, `${JSON.stringify(record, null, 2)}\n`)
}

function select (): Mutant[] {
  const all = sources.flatMap(({ mutants }) => mutants)
  const ids = args.mutants?.split(',')
  const inFiles = all.filter(({ id, file }) => args.file?.includes(file) !== false && ids?.includes(id) !== false)
  if (args.sample === undefined) return inFiles
  // The order of the hashes is random, and that of a larger sample begins with the smaller one.
  const chosen = new Set(inFiles.toSorted((a, b) => rank(a) < rank(b) ? -1 : 1).slice(0, Number(args.sample)))
  return inFiles.filter(mutant => chosen.has(mutant))
}

function rank (mutant: Mutant): string {
  return hashOf(args.seed, mutant.id)
}

/** The copies, one for each job; made anew if something has changed. */
function makeCopies (): string[] {
  const copies = Array.from({ length: Number(args.jobs) }, (_, index) => `${STATE}copy-${index}/`)
  const key = hashOf(testsKey, ...sources.map(({ code }) => code), ...['runtime.mjs', 'observe.mjs'].map(file => read(`tools/mutation/${file}`)))
  for (const target of copies) {
    if (existsSync(`${target}.key`) && readFileSync(`${target}.key`, 'utf8') === key) continue
    copy(ROOT, target, sources)
    writeFileSync(`${target}.key`, key)
  }
  return copies
}

/** Takes the next item as soon as a job is free. */
async function inParallel<T> (
  items: readonly T[], copies: readonly string[], work: (item: T, folder: string) => Promise<void>
): Promise<void> {
  const iterator = items.values()
  await Promise.all(copies.map(async folder => { for (const item of iterator) await work(item, folder) }))
}

/** Runs each test file once without a mutant, unless that has been done. */
async function findCoverage (copies: readonly string[]): Promise<Map<string, Coverage>> {
  const path = `${STATE}coverage.json`
  const found = new Map(existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) as Array<[string, Coverage]> : [])
  const keys = new Map(testFiles.map(file => [file, hashOf(sourceKey, helperKey, read(file))]))
  for (const [file, { key, isPassed }] of found) if (!isPassed || keys.get(file) !== key) found.delete(file)
  await inParallel(testFiles.filter(file => !found.has(file)), copies, async (file, folder) => {
    let coverage = await cover(file, folder, keys.get(file) as string)
    if (!coverage.isPassed) coverage = await cover(file, folder, coverage.key)
    found.set(file, coverage)
    writeFileSync(path, JSON.stringify([...found]))
  })
  return found
}

async function cover (file: string, folder: string, key: string): Promise<Coverage> {
  const log = `${folder}coverage.jsonl`
  writeFileSync(log, '')
  const result = await run({ copy: folder, node: args.node, file, limit: 600_000, env: { MUTATION_COVERAGE: log } })
  const covered: Record<string, string[]> = {}
  for (const line of readFileSync(log, 'utf8').split('\n').filter(text => text !== '')) {
    const [test, source, ids] = JSON.parse(line) as [string, string, string[]]
    ;(covered[test] ??= []).push(...ids.map(id => `${source}:${id}`))
  }
  for (const [test, ids] of Object.entries(covered)) covered[test] = [...new Set(ids)]
  const inTests = Object.values(result.times).reduce((sum, time) => sum + time, 0)
  console.log(`${file}: ${result.isPassed ? 'passes' : 'FAILS'} in ${Math.round(result.time)} ms`)
  if (!result.isPassed) console.log(tail(result))
  return { key, isPassed: result.isPassed, start: Math.max(0, result.time - inTests), times: result.times, covered }
}

function tail ({ output }: Result): string {
  return output.split('\n').slice(-40).join('\n')
}

/** Tests of one file. */
interface Unit {
  file: string
  tests: string[]
  time: number
}

interface TestCase {
  file: string
  name: string
  time: number
  reaches: (id: string) => boolean
}

/** All tests that pass without a mutant. */
function testCases (coverage: ReadonlyMap<string, Coverage>): TestCase[] {
  return [...coverage].filter(([, { isPassed }]) => isPassed).flatMap(([file, { covered, times }]) => {
    const shared = new Set(covered[''])
    return Object.entries(times).map(([name, time]) => {
      const own = new Set(covered[name])
      return { file, name, time, reaches: id => own.has(id) || shared.has(id) }
    })
  })
}

/** The tests that have killed the last mutants of each file, newest first. */
const killers = new Map<string, TestCase[]>()
const MOST_KILLERS = 4
/** How many mutants of each file the tests of a test file have killed: usually, two or three test files kill nearly all of them. */
const kills = new Map<string, Map<string, number>>()
/** How many tests are tried first, and then; each run of a file takes a second more. */
const LIKELY = [3, 12] as const

const reachingById = new Map<string, TestCase[]>()

function reaching (id: string, cases: readonly TestCase[]): TestCase[] {
  const known = reachingById.get(id) ?? cases.filter(({ reaches }) => reaches(id))
  reachingById.set(id, known)
  return known
}

/** The mutants in the body of each function, by the function's name. */
const bodies = new Map<string, string[]>()
for (const { file, mutants } of sources) {
  const lines = read(file).split('\n')
  for (const [at, line] of lines.entries()) {
    const [, indent = '', name] = /^( *)(?:(?:export|static|async|get|set|function|const|readonly) )*(#?\w+)(?: = (?:async )?)? ?\(.*\{$/.exec(line) ?? []
    if (name === undefined) continue
    const end = lines.indexOf(`${indent}}`, at)
    const inside = mutants.filter(mutant => mutant.line > at && mutant.line <= end).map(({ id }) => id)
    bodies.set(name, [...bodies.get(name) ?? [], ...inside])
  }
}

/**
 * Which tests reach a mutant, the likely killers first: those that have killed its neighbours, and those that reach what few tests reach
 * around it, or in the functions that it calls, because a condition matters to the tests that reach what it decides on. A test file may
 * also have the name of the mutant's.
 */
function plan ({ id, file: source, original }: Mutant, cases: readonly TestCase[], coverage: ReadonlyMap<string, Coverage>): Unit[] {
  const [, index = ''] = id.split(':')
  const neighbours = Array.from({ length: 13 }, (_, at) => `${source}:${Number(index) + at - 6}`)
  const called = [...original.matchAll(/#?\w+(?=\()/g)].flatMap(([name]) => bodies.get(name) ?? [])
  const near = [...new Set([...neighbours, ...called])].map(other => reaching(other, cases))
  const weights = new Map<TestCase, number>()
  for (const tests of near) for (const test of tests) weights.set(test, (weights.get(test) ?? 0) + 1 / tests.length)
  const name = basename(source, '.ts')
  const worth = (test: TestCase) => killers.get(source)?.includes(test) === true
    ? Infinity
    : (weights.get(test) ?? 0) * (test.file.includes(name) ? 5 : 1) / (test.time + 500)
  const tests = reaching(id, cases).map(test => ({ test, worth: worth(test) }))
    .sort((a, b) => b.worth - a.worth).map(({ test }) => test)
  const [first, next] = LIKELY
  const killsOf = ({ file }: Unit) => kills.get(source)?.get(file) ?? 0
  const rest = unite(tests.slice(next), coverage).sort((a, b) => killsOf(b) - killsOf(a))
  return [...unite(tests.slice(0, first), coverage), ...unite(tests.slice(first, next), coverage), ...rest]
}

function unite (tests: readonly TestCase[], coverage: ReadonlyMap<string, Coverage>): Unit[] {
  const units = new Map<string, Unit>()
  for (const { file, name, time } of tests) {
    const unit = units.get(file) ?? { file, tests: [], time: coverage.get(file)?.start ?? 0 }
    unit.tests.push(name)
    unit.time += time
    units.set(file, unit)
  }
  return [...units.values()]
}

function noteKill (source: string, file: string): void {
  const counts = kills.get(source) ?? new Map<string, number>()
  kills.set(source, counts.set(file, (counts.get(file) ?? 0) + 1))
}

function noteKiller (source: string, killer: TestCase | undefined): void {
  if (killer === undefined) return
  const others = (killers.get(source) ?? []).filter(other => other !== killer)
  killers.set(source, [killer, ...others].slice(0, MOST_KILLERS))
}

/** The tests that start programs, and are therefore slower on a busy machine. */
const isOfPrograms = (file: string) => /^test\/(?:process|system)\//.test(file)

/**
 * A test may also fail because the machine is busy, if it starts programs or has taken too long. Then the mutant is killed only if the
 * test fails again, alone; and if it has taken too long, it must pass without the mutant.
 */
async function isKilledBy ({ file, tests, time }: Unit, failure: Result, folder: string, mutant: Mutant): Promise<boolean> {
  if (failure.failed !== undefined && !failure.isTimedOut && !isOfPrograms(file)) return true
  // What fails may be no test: an error that nothing has caught, or a test that has not ended.
  const failed = tests.filter(name => name === failure.failed)
  const again = { copy: folder, node: args.node, file, tests: failed.length > 0 ? failed : tests, limit: limitOf(time) }
  const { isPassed, isTimedOut } = await run({ ...again, env: { MUTANT: mutant.id } })
  if (isPassed) return false
  return !isTimedOut || (await run({ ...again, env: {} })).isPassed
}

async function testMutant (
  mutant: Mutant, folder: string, cases: readonly TestCase[], coverage: ReadonlyMap<string, Coverage>
): Promise<Outcome> {
  const start = performance.now()
  const plans = plan(mutant, cases, coverage)
  const outcome = { key: keyOf(mutant), tests: testsKey, left: 0, runs: 0, time: 0 }
  const end = () => ({ runs: outcome.runs, time: Math.round(performance.now() - start) })
  for (const [index, entry] of plans.entries()) {
    if (performance.now() - start > Number(args.patience) * 1_000) return { ...outcome, ...end(), left: plans.length - index, status: 'survived' }
    outcome.runs++
    const { file, tests, time } = entry
    const result = await run({ copy: folder, node: args.node, file, tests, limit: limitOf(time), env: { MUTANT: mutant.id } })
    if (result.isPassed) continue
    if (!await isKilledBy(entry, result, folder, mutant)) {
      console.log(`Not confirmed: ${mutant.id} by ${file}: ${result.isTimedOut ? 'time-out' : result.failed ?? 'the file'}`)
      continue
    }
    if (args.verbose) console.log(tail(result))
    noteKill(mutant.file, file)
    noteKiller(mutant.file, cases.find(other => other.file === file && other.name === result.failed))
    return { ...outcome, ...end(), status: 'killed', killer: { file, test: result.failed, isTimedOut: result.isTimedOut } }
  }
  return { ...outcome, ...end(), status: plans.length === 0 ? 'uncovered' : 'survived' }
}

/** A killed mutant stays so until its file changes; others are tested again when a test has changed. */
function isDone (mutant: Mutant): boolean {
  const outcome = outcomes.get(keyOf(mutant))
  if (outcome === undefined) return false
  return outcome.status === 'killed' || (outcome.tests === testsKey && !args.survivors)
}

function show ({ id, line, mutator, original, replacement }: Mutant): string {
  const brief = (text: string) => { const flat = text.replace(/\s+/g, ' '); return flat.length > 90 ? `${flat.slice(0, 89)}…` : flat }
  return `${id} (line ${line}, ${mutator}): ${brief(original)} → ${brief(replacement)}`
}

/** Wilson's interval, at 95 %. */
function interval (killed: number, total: number): string {
  const z = 1.96
  const part = killed / total
  const middle = (part + z ** 2 / (2 * total)) / (1 + z ** 2 / total)
  const half = z / (1 + z ** 2 / total) * Math.sqrt(part * (1 - part) / total + z ** 2 / (4 * total ** 2))
  return `${percent(middle - half)} to ${percent(middle + half)}`
}

function percent (part: number): string {
  return `${(part * 100).toFixed(1)} %`
}

function report (mutants: readonly Mutant[]): void {
  const rows: Array<Record<string, string | number>> = []
  const total = { mutants: 0, killed: 0, survived: 0, uncovered: 0 }
  for (const { file } of sources) {
    const own = mutants.filter(mutant => mutant.file === file)
    const row = { mutants: own.length, killed: 0, survived: 0, uncovered: 0 }
    for (const mutant of own) {
      const outcome = outcomes.get(keyOf(mutant))
      if (outcome === undefined) continue
      row[outcome.status]++
      if (outcome.status !== 'killed') console.log(`${outcome.status}${outcome.left > 0 ? `, ${outcome.left} test files not run` : ''}: ${show(mutant)}`)
    }
    const tested = row.killed + row.survived + row.uncovered
    if (own.length > 0) rows.push({ file, ...row, 'not tested': own.length - tested, score: tested === 0 ? '' : percent(row.killed / tested) })
    for (const key of ['mutants', 'killed', 'survived', 'uncovered'] as const) total[key] += row[key]
  }
  console.table(rows)
  const tested = total.killed + total.survived + total.uncovered
  const ignored = sources.reduce((sum, source) => sum + source.ignored, 0)
  console.log(`${sources.reduce((sum, source) => sum + source.mutants.length, 0)} mutants in all, and ${ignored} texts of messages, which are not mutated`)
  if (tested === 0) return
  const confidence = args.sample === undefined ? '' : ` (95 % confidence: ${interval(total.killed, tested)})`
  console.log(`Score: ${percent(total.killed / tested)} of ${tested} mutants${confidence}; killed ${total.killed}, survived ${total.survived}, uncovered ${total.uncovered}`)
}

for (const { key, killer } of outcomes.values()) if (killer !== undefined) noteKill(key.slice(0, key.lastIndexOf(':')), killer.file)

const mutants = select()
if (!args.report) {
  const copies = makeCopies()
  const coverage = await findCoverage(copies)
  const failing = [...coverage].filter(([, { isPassed }]) => !isPassed).map(([file]) => file)
  if (failing.length > 0) console.log(`Not used, because they fail without a mutant: ${failing.join(', ')}`)
  const cases = testCases(coverage)
  // First, those without any result: survivors take the longest, and most survive again.
  const isNew = (mutant: Mutant) => !outcomes.has(keyOf(mutant))
  const due = [...mutants.filter(isNew), ...mutants.filter(mutant => !isNew(mutant) && !isDone(mutant))]
  console.log(`${mutants.length} mutants, ${due.length} to test, with ${coverage.size - failing.length} test files`)
  let count = 0
  await inParallel(due, copies, async (mutant, folder) => {
    const outcome = await testMutant(mutant, folder, cases, coverage)
    outcomes.set(outcome.key, outcome)
    appendFileSync(RESULTS, `${JSON.stringify(outcome)}\n`)
    const by = outcome.killer === undefined ? '' : ` by ${outcome.killer.file}: ${outcome.killer.isTimedOut ? 'time-out' : outcome.killer.test ?? 'the file'}`
    console.log(`${++count}/${due.length} ${outcome.status}${by} (${outcome.runs} runs, ${Math.round(outcome.time / 1000)} s) ${show(mutant)}`)
  })
}
if (args.record) writeRecord()
report(mutants)
