// Foreign test suites: the unmodified tests of Fastify and of its plugins, with this plugin on every instance.
// `npm run test:foreign -- --help` shows the options.
//
// Exits with 1 if there is a difference that differences.ts does not list. A listed one that has disappeared is printed.

import type { Suite } from './suites.ts'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { readFlags } from '../flags.ts'
import { compare } from './compare.ts'
import { DIFFERENCES } from './differences.ts'
import { install } from './install.ts'
import { runFile, WHOLE_FILE, type FileResult } from './program.ts'
import { SUITES } from './suites.ts'

/** How often a file runs again, alone, before a difference is reported. */
const RETRIES = 2

const HELP = `npm run test:foreign -- [--short] [--only NAME] [--file TEXT] [--jobs N]

  --short      what is about closing, hooks, streams and proxies: at most 4 minutes
  --only NAME  one suite: ${SUITES.map(({ name }) => name).join(', ')}
  --file TEXT  only test files whose path contains this
  --jobs N     how many files at a time; default: one for each processor
`

/** One file, compared. */
interface Compared {
  file: string
  untouched: FileResult
  withPlugin: FileResult
  differences: Map<string, string>
}

/** A suite's row in the table, and its findings. */
interface Outcome {
  row: Record<string, number>
  unexplained: string[]
  stale: string[]
}

const { values } = readFlags(HELP, {
  options: {
    short: { type: 'boolean', default: false },
    only: { type: 'string' },
    file: { type: 'string', default: '' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    help: { type: 'boolean', default: false }
  }
})
const jobs = Number(values.jobs)
const suites = SUITES.filter(({ name, short }) => values.only === undefined ? !values.short || short !== undefined : name === values.only)
if (values.help || !Number.isInteger(jobs) || jobs < 1 || suites.length === 0) {
  console.log(HELP)
  process.exit(values.help ? 0 : 1)
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const installation = install()
const table: Record<string, Record<string, number>> = {}
const unexplained: string[] = []
const stale: string[] = []
for (const suite of suites) {
  const outcome = await runSuite(suite)
  table[suite.name] = outcome.row
  unexplained.push(...outcome.unexplained)
  stale.push(...outcome.stale)
  for (const text of outcome.unexplained) console.error(`Unexplained: ${text}\n`)
}
console.table(table)
// Not a failure, because some of these tests depend on which of two packets arrives first.
for (const text of stale) console.error(`Listed in differences.ts, but not seen in this run: ${text}`)
process.exit(unexplained.length > 0 ? 1 : 0)

async function runSuite (suite: Suite): Promise<Outcome> {
  const start = performance.now()
  const queue = testFiles(suite)
  const compared: Compared[] = []
  const work = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) compared.push(await compareFile(suite.name, file))
  }
  await Promise.all(Array.from({ length: jobs }, work))
  // One at a time, so that a busy machine is not the cause.
  for (const file of compared) await repeat(suite.name, file)

  const outcome: Outcome = { row: {}, unexplained: [], stale: [] }
  const counts = { tests: 0, untouched: 0, withPlugin: 0, known: 0 }
  for (const { file, untouched, withPlugin, differences } of compared) {
    const known = knownDifferences(suite.name, file)
    counts.tests += untouched.tests.size - 1
    counts.untouched += passed(untouched)
    counts.withPlugin += passed(withPlugin)
    for (const [what, details] of differences) {
      if (known.has(what)) counts.known++
      else outcome.unexplained.push(`${suite.name} ${file}\n  ${what}\n${details.replace(/^/gm, '    ')}`)
    }
    for (const what of known) if (!differences.has(what)) outcome.stale.push(`${suite.name} ${file}\n  ${what}`)
  }
  if (!values.short && values.file === '') {
    const files = new Set(compared.map(({ file }) => file))
    const missing = DIFFERENCES.filter(difference => difference.suite === suite.name && !files.has(difference.file))
    outcome.stale.push(...missing.map(({ file }) => `${suite.name} ${file}, which is no test file`))
  }
  outcome.row = {
    files: compared.length,
    tests: counts.tests,
    'pass untouched': counts.untouched,
    'pass with plugin': counts.withPlugin,
    'known differences': counts.known,
    unexplained: outcome.unexplained.length,
    seconds: Math.round((performance.now() - start) / 1_000)
  }
  console.log(`${suite.name}: ${Object.entries(outcome.row).map(([name, value]) => `${name} ${value}`).join(', ')}`)
  return outcome
}

function testFiles ({ name, tests = /\.test\.[cm]?js$/, skip = {}, short }: Suite): string[] {
  const folder = join(installation.modules, name)
  const pattern = values.short && short instanceof RegExp ? short : /./
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(file => tests.test(file) && pattern.test(file) && file.includes(values.file))
    .filter(file => !file.includes('node_modules') && !(file in skip))
    .sort()
}

async function compareFile (suite: string, file: string): Promise<Compared> {
  const untouched = await runFile(installation, suite, file, false)
  const withPlugin = await runFile(installation, suite, file, true)
  return { file, untouched, withPlugin, differences: compare(untouched, withPlugin) }
}

/** Keeps only the differences that occur each time. A known one that did not occur also gets a second chance. */
async function repeat (suite: string, first: Compared): Promise<void> {
  const known = knownDifferences(suite, first.file)
  for (let times = 0; times < RETRIES && !isExplained(first, known); times++) {
    const again = await compareFile(suite, first.file)
    for (const what of first.differences.keys()) {
      if (!known.has(what) && !again.differences.has(what)) first.differences.delete(what)
    }
    for (const [what, details] of again.differences) if (known.has(what)) first.differences.set(what, details)
    keepPassed(first.untouched, again.untouched)
    keepPassed(first.withPlugin, again.withPlugin)
  }
}

function isExplained ({ untouched, differences }: Compared, known: ReadonlySet<string>): boolean {
  const differs = [...differences.keys()].some(what => !known.has(what)) || [...known].some(what => !differences.has(what))
  return !differs && passed(untouched) === untouched.tests.size - 1
}

function keepPassed (first: FileResult, again: FileResult): void {
  for (const [name, event] of again.tests) if (event.passed) first.tests.set(name, event)
}

function passed ({ tests }: FileResult): number {
  return [...tests].filter(([name, event]) => event.passed && name !== WHOLE_FILE).length
}

function knownDifferences (suite: string, file: string): ReadonlySet<string> {
  return new Set(DIFFERENCES.filter(difference => difference.suite === suite && difference.file === file).flatMap(({ what }) => what))
}
