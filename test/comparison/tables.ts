// The tables of docs/comparison.md; the short one is also in the README.

import type { Answers, Question } from './questions.ts'
import { QUESTIONS } from './questions.ts'

/** The programs, and the headings of their columns. */
export const SUBJECTS: Record<string, string> = {
  'fastify-graceful': '**fastify-graceful**',
  terminus: '@godaddy/terminus',
  lightship: 'lightship',
  'http-terminator': 'http-terminator',
  'http-graceful-shutdown': 'http-graceful-shutdown',
  'fastify-graceful-shutdown': 'fastify-graceful-shutdown',
  'close-with-grace': 'close-with-grace',
  'nestjs-terminus': '@nestjs/terminus',
  fastify: 'Fastify alone'
}

/** The rows of the short table. */
const SHORT: readonly Question[] = [
  'readiness', 'delayedClose', 'drainingOpen', 'silent', 'download', 'goaway', 'cleanupEarly', 'hangingCleanup', 'cutExit', 'instances'
]
const NOT_IN_SHORT = new Set(['fastify'])

const TABLES = {
  table: { questions: Object.keys(QUESTIONS) as Question[], has: (_subject: string): boolean => true },
  'short table': { questions: SHORT, has: (subject: string): boolean => !NOT_IN_SHORT.has(subject) }
}
type TableName = keyof typeof TABLES

/** One of the tables, in Markdown. */
export function table (name: TableName, answers: Record<string, Answers>): string {
  const subjects = Object.keys(answers).filter(TABLES[name].has)
  const rows = TABLES[name].questions.map(question => [QUESTIONS[question], ...subjects.map(subject => answers[subject]?.[question])])
  return [['', ...subjects.map(subject => SUBJECTS[subject])], ['---', ...subjects.map(() => '---')], ...rows]
    .map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

/** The document with the answers in its tables. */
export function withAnswers (document: string, answers: Record<string, Answers>): string {
  const agreed = Object.fromEntries(Object.entries(answers).map(([subject, found]) => [subject, { ...found }]))
  for (const name of tablesIn(document)) {
    for (const question of TABLES[name].questions) {
      for (const [subject, cells] of Object.entries(agreed)) {
        const cell = cellOf(document, name, question, subject)
        if (cell !== undefined && meaning(cell) === cells[question]) cells[question] = cell
      }
    }
  }
  return tablesIn(document).reduce((text, name) => (
    text.replace(block(name), (_all, start: string, _old, end: string) => `${start}${table(name, agreed)}${end}`)
  ), document)
}

function tablesIn (document: string): TableName[] {
  return (Object.keys(TABLES) as TableName[]).filter(name => block(name).test(document))
}

export interface Difference {
  document: string
  subject: string
  question: Question
  expected: string | undefined
  actual: string | undefined
}

/** The cells of a document that differ from the answers. */
export function differences (document: string, text: string, answers: Record<string, Answers>): Difference[] {
  return tablesIn(text).flatMap(name => TABLES[name].questions.flatMap(question =>
    Object.entries(answers).filter(([subject]) => TABLES[name].has(subject)).flatMap(([subject, { [question]: actual }]) => {
      const expected = cellOf(text, name, question, subject)
      return meaning(expected) === actual ? [] : [{ document, subject, question, expected, actual }]
    })))
}

/** The rows that say `package version` or `package | version` with a version other than the tested one. */
export function staleVersions (text: string, dependencies: Record<string, string>): string[] {
  return text.split('\n').filter(line => {
    const [, name = '', version] = /^\| ([@\w/-]+)(?: \|)? (\d+\.\d+\.\d+)/.exec(line) ?? []
    return name in dependencies && dependencies[name] !== version
  })
}

function block (name: TableName): RegExp {
  return new RegExp(`(<!-- ${name} -->\n)([^]*?)(\n<!-- /${name} -->)`)
}

function cellOf (document: string, name: TableName, question: Question, subject: string): string | undefined {
  const [headings = [], , ...rows] = (block(name).exec(document)?.[2] ?? '').split('\n').map(line => line.split('|').map(cell => cell.trim()))
  return rows.find(cells => cells[1] === QUESTIONS[question])?.[headings.indexOf(SUBJECTS[subject] as string)]
}

/** What a cell says about this version of Node: an answer may be "from Node 24". */
function meaning (cell: string | undefined): string | undefined {
  const from = /^from Node (\d+)$/.exec(cell ?? '')?.[1]
  if (from === undefined) return cell
  return Number(process.versions.node.split('.')[0]) >= Number(from) ? 'yes' : 'no'
}
