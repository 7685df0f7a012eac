// The results, in Markdown.

import type { Results } from './results.ts'
import { OURS, SUBJECTS } from './subjects.ts'

export function tables (results: Results): string {
  return [subjects(results), refusals(results), growth(results), notMeasured(results), machine(results)].filter(text => text !== '').join('\n\n')
}

/** One row for each subject. */
function subjects ({ instructions, instructionsWithLogger, throughput, exit = {}, memory }: Results): string {
  const columns: Array<[head: string, cell: (subject: string) => string]> = []
  if (instructions !== undefined) columns.push(['instructions a request', subject => grouped(instructions[subject])])
  if (instructionsWithLogger !== undefined) columns.push(['with the logger', subject => grouped(instructionsWithLogger[subject])])
  if (throughput !== undefined) {
    columns.push(['requests/s', subject => grouped(throughput[subject]?.requestsPerSecond)])
    columns.push(['p99', subject => `${throughput[subject]?.p99} ms`])
  }
  for (const [idle, times] of Object.entries(exit)) columns.push([`gone, ${grouped(Number(idle))} idle`, subject => milliseconds(times[subject])])
  if (memory !== undefined) {
    columns.push(['bytes, idle', subject => grouped(memory[subject]?.idle)])
    columns.push(['bytes, in flight', subject => grouped(memory[subject]?.inFlight)])
  }
  if (columns.length === 0) return ''
  const shown = Object.keys(SUBJECTS).filter(subject => columns.some(([, cell]) => !cell(subject).startsWith('—')))
  const rows = shown.map(subject => [subject === OURS ? `**${subject}**` : subject].concat(columns.map(([, cell]) => cell(subject))))
  return table(['', ...columns.map(([head]) => head)], rows)
}

function refusals ({ refusals: measured }: Results): string {
  if (measured === undefined) return ''
  const { refused, helloWorld, keptAlive } = measured
  return table(['answers a second', 'requests/s', 'p99'], ([
    ['refusals while draining, each closes its connection', refused],
    ['hello world of bare Fastify, each closes its connection', helloWorld],
    ['hello world of bare Fastify, over keep-alive', keptAlive]
  ] as const).map(([what, { requestsPerSecond, p99 }]) => [what, grouped(requestsPerSecond), `${p99} ms`]))
}

function growth ({ growth: rows }: Results): string {
  if (rows === undefined) return ''
  const head = ['connections', 'idle: SIGTERM → gone', 'in flight: SIGTERM → gone', 'in flight: one more request', 'in flight: reading `inFlightRequests`']
  return table(head, rows.map(({ connections, goneFromIdle, goneFromInFlight, request, read }) => [
    grouped(connections), milliseconds(goneFromIdle), milliseconds(goneFromInFlight), `${request.toFixed(0)} µs`, `${read.toFixed(1)} ns`
  ]))
}

function notMeasured ({ notMeasured: parts }: Results): string {
  return Object.entries(parts).map(([part, tool]) => `${part}: not measured, for ${tool} is missing`).join('\n')
}

function machine ({ machine: what, versions, date }: Results): string {
  return `${what}; ${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(', ')}; ${date}`
}

function table (head: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  return [head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

export function grouped (value: number | undefined): string {
  return value === undefined ? '—' : Math.round(value).toLocaleString('en-US')
}

function milliseconds (value: number | undefined): string {
  return value === undefined ? '—' : `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`
}
