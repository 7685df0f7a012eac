// The results as Markdown.

import type { Growth } from './growth.ts'
import type { LoadName, Part, Results } from './results.ts'
import { LOADS, medians, spread } from './results.ts'
import { OURS, SUBJECTS } from './subjects.ts'

export function tables (results: Results): string {
  return [subjects(results), refusals(results), growth(results), loading(results), notes(results)].filter(text => text !== '').join('\n\n')
}

/** One row for each subject. */
function subjects ({ instructions, throughput, exit = {}, memory, notMeasured }: Results): string {
  const columns: Array<[head: string, cell: (subject: string) => string]> = []
  const without = (part: Part, ...heads: string[]) => {
    if (notMeasured[part] !== undefined) columns.push(...heads.map(head => [head, () => 'not measured'] satisfies typeof columns[number]))
  }
  const loads = Object.keys(LOADS) as LoadName[]
  without('instructions', ...loads.map(load => `instructions, ${load}`))
  for (const load of loads) {
    const counts = instructions?.[load]
    if (counts !== undefined) columns.push([`instructions, ${load}`, subject => grouped(medians(counts)[subject])])
  }
  without('throughput', 'requests/s', 'p99')
  if (throughput !== undefined) {
    columns.push(['requests/s', subject => grouped(throughput[subject]?.requestsPerSecond)])
    columns.push(['p99', subject => milliseconds(throughput[subject]?.p99)])
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
  return table(['responses a second', 'requests/s', 'p99'], ([
    ['rejections while draining, each closes its connection', refused],
    ['hello world of bare Fastify, each closes its connection', helloWorld],
    ['hello world of bare Fastify, over keep-alive', keptAlive]
  ] as const).map(([what, { requestsPerSecond, p99 }]) => [what, grouped(requestsPerSecond), `${p99} ms`]))
}

function growth ({ growth: rows }: Results): string {
  if (rows === undefined) return ''
  const head = ['connections', 'idle: SIGTERM → gone', 'in flight: SIGTERM → gone', 'one more request, beside idle connections', 'one more request, beside requests in flight', 'in flight: reading `inFlightRequests`']
  const microseconds = (value: number) => `${value.toFixed(0)} µs`
  return table(head, rows.map(({ connections, ours, bare, read }: Growth) => [
    grouped(connections),
    besideBare(milliseconds, ours.goneFromIdle, bare.goneFromIdle),
    besideBare(milliseconds, ours.goneFromInFlight, bare.goneFromInFlight),
    besideBare(microseconds, ours.besideIdle, bare.besideIdle),
    besideBare(microseconds, ours.besideInFlight, bare.besideInFlight),
    `${read.toFixed(1)} ns`
  ]))
}

function loading ({ loading: measured }: Results): string {
  if (measured === undefined) return ''
  const all = [measured.ours, measured.frame, measured.empty]
  return table(['start, processor time', 'the plugin', 'its hooks, decorators and routes, doing nothing', 'an empty plugin'], [
    ['import, after its dependencies were loaded (not counted)', ...all.map(start => milliseconds(start.import))],
    ['register, until ready', ...all.map(start => milliseconds(start.register))]
  ])
}

function besideBare (format: (value: number) => string, ours: number, bare: number): string {
  return `${format(ours)} (bare: ${format(bare)})`
}

function notes ({ notMeasured, instructions = {}, machine, versions, date }: Results): string {
  const missing = Object.entries(notMeasured).map(([part, tool]) => `${part}: not measured, because ${tool} is missing.`)
  const spreads = Object.entries(instructions).map(([load, counts]) => {
    const most = Math.max(...Object.values(counts).map(spread))
    return `Counts ${load}: the processes of one package differ by up to ${most.toFixed(1)} %.`
  })
  const where = `${machine}; ${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(', ')}; ${date}`
  return [...missing, ...spreads, where].join('\n')
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
