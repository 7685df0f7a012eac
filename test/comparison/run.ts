// Compares shutdown packages: `npm run test:comparison`, or `npm run test:comparison -- fastify-graceful lightship` for only
// these. Prints the table, and fails if it differs from docs/comparison.md or README.md. `--write` writes the answers there instead.
//
// Each package has a program in `programs`, set up as its documentation recommends, with the packages that
// packages/package.json pins.

import type { Answers, Question } from './questions.ts'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, installPrograms } from '../packages.ts'
import { Program } from './program.ts'
import { QUESTIONS, SCENARIOS } from './questions.ts'
import { SUBJECTS, differences, staleVersions, table, withAnswers } from './tables.ts'

/** Most of the time, a program only waits. */
const CONCURRENCY = 12
const DOCUMENTS = ['docs/comparison.md', 'README.md']

const args = process.argv.slice(2)
const names = args.filter(arg => !arg.startsWith('--'))
const subjects = names.length > 0 ? names : Object.keys(SUBJECTS)
const unknown = names.filter(name => !(name in SUBJECTS))
if (unknown.length > 0) throw new Error(`Unknown: ${unknown.join(', ')}. Known are ${Object.keys(SUBJECTS).join(', ')}.`)
if (names.length > 0 && args.includes('--write')) throw new Error('--write needs all packages')

const running = new Set<Program>()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })
process.on('exit', () => { for (const program of running) program.end() })

const folder = installPrograms('comparison')
const answers: Record<string, Answers> = Object.fromEntries(subjects.map(subject => [subject, {}]))
/** The scenario that answers a question. */
const scenarioOf = new Map<Question, string>()
const tasks = Object.keys(SCENARIOS).flatMap(scenario => subjects.map(subject => ({ scenario, subject })))
const failed: typeof tasks = []
await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
  for (let task = tasks.shift(); task !== undefined; task = tasks.shift()) {
    const { subject, scenario } = task
    await ask(subject, scenario).catch(() => { failed.push({ subject, scenario }) })
  }
}))

const read = (document: string): string => readFileSync(join(ROOT, document), 'utf8')
const allDifferences = () => DOCUMENTS.flatMap(document => differences(document, read(document), answers))
// A busy machine may have been too slow for an answer, so these questions are asked again, one at a time.
for (const { subject, scenario } of failed) await ask(subject, scenario)
const doubtful = new Set(allDifferences().map(({ subject, question }) => `${subject} ${scenarioOf.get(question)}`))
for (const pair of doubtful) await ask(...pair.split(' ') as [string, string])
if (args.includes('--write')) {
  for (const document of DOCUMENTS) writeFileSync(join(ROOT, document), withAnswers(read(document), answers))
}
console.log(table('table', answers))
const wrong = allDifferences()
for (const { document, subject, question, expected, actual } of wrong) {
  console.error(`${document}: ${subject}, ${QUESTIONS[question]}: "${expected}", but found "${actual}"`)
}
const { dependencies } = JSON.parse(read('test/comparison/packages/package.json')) as { dependencies: Record<string, string> }
const stale = staleVersions(read('docs/comparison.md'), dependencies)
for (const line of stale) console.error(`docs/comparison.md: another version is tested: ${line}`)
process.exit(wrong.length + stale.length > 0 ? 1 : 0)

async function ask (subject: string, scenario: string): Promise<void> {
  const started: Program[] = []
  try {
    const found = await SCENARIOS[scenario]?.(settings => {
      const program = new Program(folder, subject, settings ?? {})
      started.push(program)
      running.add(program)
      return program
    })
    Object.assign(answers[subject] as Answers, found)
    for (const question of Object.keys(found ?? {}) as Question[]) scenarioOf.set(question, scenario)
  } catch (error) {
    throw new Error(`${subject}, ${scenario}`, { cause: error })
  } finally {
    for (const program of started) {
      program.end()
      running.delete(program)
    }
  }
}
