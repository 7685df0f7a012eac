// Foreign test suites: the unmodified tests of Fastify and of its plugins, with this plugin on every instance.
// `npm run test:foreign -- --help` shows the options.
//
// Exits with 1 if there is a difference that differences.ts does not list, or if an instance is without the plugin. A listed one that has
// disappeared is printed. Without options, results.md is written anew.

import type { Suite } from './suites.ts'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { readFlags } from '../flags.ts'
import { compare, count, NEVER_BY_CHANCE } from './compare.ts'
import { DIFFERENCES } from './differences.ts'
import { install } from './install.ts'
import { runFile, WHOLE_FILE, type FileResult } from './program.ts'
import { SELF_TEST, SUITES } from './suites.ts'

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

/** A suite's row in the table. */
type Row = Record<string, number>

/** What a suite has shown. */
interface Outcome {
  row: Row
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

const isFull = !values.short && values.only === undefined && values.file === ''
const installation = install()
const table: Record<string, Row> = {}
const unexplained: string[] = []
const stale: string[] = []
for (const suite of [SELF_TEST, ...suites]) {
  const outcome = await runSuite(suite)
  if (suite === SELF_TEST) outcome.unexplained.push(...outcome.stale.splice(0).map(text => `${text}\n    is not seen`))
  else table[suite.name] = outcome.row
  unexplained.push(...outcome.unexplained)
  stale.push(...outcome.stale)
  for (const text of outcome.unexplained) console.error(`Unexplained: ${text}\n`)
}
const total = sum(Object.values(table))
table.total = total
console.table(table)
console.log(`${total.instances} instances, ${total.registered} registered, ${total.rejected} rejected registration`)
if (isFull) writeFileSync(new URL('results.md', import.meta.url), results())
// Not a failure, because some of these tests depend on which of two packets arrives first.
for (const text of stale) console.error(`Listed in differences.ts, but not seen in this run: ${text}`)
process.exit(unexplained.length > 0 ? 1 : 0)

async function runSuite (suite: Suite): Promise<Outcome> {
  const start = performance.now()
  const folder = folderOf(suite.name)
  const queue = testFiles(suite)
  const compared: Compared[] = []
  const work = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) compared.push(await compareFile(folder, file))
  }
  await Promise.all(Array.from({ length: jobs }, work))
  // One at a time, so that a busy machine is not the cause.
  for (const file of compared) await repeat(folder, file, knownDifferences(suite.name, file.file))

  const outcome: Outcome = { row: {}, unexplained: [], stale: [] }
  const rows: Row[] = []
  for (const { file, untouched, withPlugin, differences } of compared) {
    const known = knownDifferences(suite.name, file)
    const unlisted = [...differences].filter(([what]) => !known.has(what))
    const missing = [...known].filter(what => !differences.has(what))
    rows.push({
      files: 1,
      ...count(withPlugin),
      tests: untouched.tests.size - 1,
      'pass untouched': passed(untouched),
      'pass with plugin': passed(withPlugin),
      'known differences': differences.size - unlisted.length,
      unexplained: unlisted.length
    })
    outcome.unexplained.push(...unlisted.map(([what, details]) => `${suite.name} ${file}\n  ${what}\n${details.replace(/^/gm, '    ')}`))
    outcome.stale.push(...missing.map(what => `${suite.name} ${file}\n  ${what}`))
  }
  if (!values.short && values.file === '') {
    const files = new Set(compared.map(({ file }) => file))
    const missing = DIFFERENCES.filter(difference => difference.suite === suite.name && !files.has(difference.file))
    outcome.stale.push(...missing.map(({ file }) => `${suite.name} ${file}, which is no test file`))
  }
  outcome.row = { ...sum(rows), seconds: Math.round((performance.now() - start) / 1_000) }
  console.log(`${suite.name}: ${Object.entries(outcome.row).map(([name, value]) => `${name} ${value}`).join(', ')}`)
  return outcome
}

function sum (rows: readonly Row[]): Row {
  const names = [...new Set(rows.flatMap(row => Object.keys(row)))]
  return Object.fromEntries(names.map(name => [name, rows.reduce((all, row) => all + (row[name] ?? 0), 0)]))
}

/** The table, with the versions of the packages. */
function results (): string {
  const columns = Object.keys(total).filter(name => name !== 'seconds')
  const rows = [['suite', 'version', ...columns], ['---', '---', ...columns.map(() => '---:')]]
  for (const [name, row] of Object.entries(table)) rows.push([name, version(name), ...columns.map(column => String(row[column]))])
  return `${rows.map(cells => `| ${cells.join(' | ')} |\n`).join('')}\nNode.js ${process.versions.node}, ${new Date().toISOString().slice(0, 10)}\n`
}

function version (name: string): string {
  const manifest = join(installation.modules, name, 'package.json')
  return existsSync(manifest) ? (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version : ''
}

function folderOf (name: string): string {
  return name === SELF_TEST.name ? import.meta.dirname : join(installation.modules, name)
}

function testFiles ({ name, tests = /\.test\.[cm]?js$/, skip = {}, short }: Suite): string[] {
  const pattern = values.short && short instanceof RegExp ? short : /./
  return readdirSync(folderOf(name), { recursive: true, encoding: 'utf8' })
    .filter(file => tests.test(file) && pattern.test(file) && (name === SELF_TEST.name || file.includes(values.file)))
    .filter(file => !file.includes('node_modules') && !(file in skip))
    .sort()
}

async function compareFile (folder: string, file: string): Promise<Compared> {
  const untouched = await runFile(installation, folder, file, false)
  const withPlugin = await runFile(installation, folder, file, true)
  return { file, untouched, withPlugin, differences: compare(untouched, withPlugin) }
}

/**
 * Keeps only the differences that occur each time, and those that do not occur by chance. A known one that did not occur also gets a
 * second chance.
 */
async function repeat (folder: string, first: Compared, known: ReadonlySet<string>): Promise<void> {
  const stays = (what: string) => known.has(what) || NEVER_BY_CHANCE.test(what)
  for (let times = 0; times < RETRIES && !isSettled(first, known, stays); times++) {
    const again = await compareFile(folder, first.file)
    for (const what of first.differences.keys()) {
      if (!stays(what) && !again.differences.has(what)) first.differences.delete(what)
    }
    for (const [what, details] of again.differences) if (stays(what)) first.differences.set(what, details)
    keepPassed(first.untouched, again.untouched)
    keepPassed(first.withPlugin, again.withPlugin)
  }
}

function isSettled ({ untouched, differences }: Compared, known: ReadonlySet<string>, stays: (what: string) => boolean): boolean {
  const differs = [...differences.keys()].some(what => !stays(what)) || [...known].some(what => !differences.has(what))
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
