// The tables of docs/comparison.md.

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

/** The rows of the short table, and how they are put there. */
const SHORT: Partial<Record<Question, string>> = {
  readiness: 'readiness fails before the listener closes',
  delayedClose: '`Connection: close` during the delay',
  drainingOpen: 'request on an idle connection while draining',
  silent: 'silent connections do not delay the exit',
  download: 'a slow reader gets its whole response',
  goaway: 'HTTP/2 GOAWAY',
  cleanupEarly: 'cleanup waits for a handler that has sent its 202',
  hangingCleanup: 'a cleanup that hangs is cut',
  cutExit: 'exit code if a request was cut',
  instances: 'two instances in a process'
}

export function longTable (answers: Record<string, Answers>): string {
  return table(QUESTIONS, answers)
}

export function shortTable (answers: Record<string, Answers>): string {
  return table(SHORT, answers)
}

function table (labels: Partial<Record<Question, string>>, answers: Record<string, Answers>): string {
  const subjects = Object.keys(answers)
  const rows = (Object.keys(labels) as Question[]).map(question => [labels[question], ...subjects.map(subject => answers[subject]?.[question])])
  return [['', ...subjects.map(subject => SUBJECTS[subject])], ['---', ...subjects.map(() => '---')], ...rows]
    .map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

/** The document with these tables. */
export function withTables (document: string, answers: Record<string, Answers>): string {
  return replaceBlock(replaceBlock(document, 'table', longTable(answers)), 'short table', shortTable(answers))
}

const block = (name: string): RegExp => new RegExp(`(<!-- ${name} -->\n)([^]*?)(\n<!-- /${name} -->)`)

function replaceBlock (document: string, name: string, content: string): string {
  if (!block(name).test(document)) throw new Error(`docs/comparison.md has no block "${name}"`)
  return document.replace(block(name), (_all, start: string, _old, end: string) => `${start}${content}${end}`)
}

export interface Difference {
  subject: string
  question: Question
  expected: string | undefined
  actual: string | undefined
}

/** The cells of the document that differ from the answers. */
export function differences (document: string, answers: Record<string, Answers>): Difference[] {
  return Object.entries({ table: QUESTIONS, 'short table': SHORT }).flatMap(([name, labels]) => {
    const [headings = [], , ...rows] = (block(name).exec(document)?.[2] ?? '').split('\n').map(line => line.split('|').map(cell => cell.trim()))
    return Object.entries(labels).flatMap(([question, label]) => {
      const row = rows.find(cells => cells[1] === label)
      return Object.keys(answers).flatMap(subject => {
        const expected = row?.[headings.indexOf(SUBJECTS[subject] as string)]
        const actual = answers[subject]?.[question as Question]
        return expected === actual ? [] : [{ subject, question: question as Question, expected, actual }]
      })
    })
  })
}
