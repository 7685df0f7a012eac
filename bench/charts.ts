// The results as pictures: bars for each subject, lines for the growth.

import type { Costs } from './growth.ts'
import type { LoadName, Results } from './results.ts'
import { medians } from './results.ts'
import { OURS } from './subjects.ts'
import { grouped } from './tables.ts'

const WIDTH = 760
const FONT = 'font-family="system-ui, sans-serif" font-size="13"'
const COLOURS = { ours: '#1f8a53', others: '#9aa4b1', text: '#1f2733', faint: '#5b6675' }

const FILES: Record<LoadName, string> = {
  'without a logger': 'instructions',
  'with the logger': 'instructions-with-logger',
  'without a logger, pipelined 16 deep': 'instructions-pipelined'
}

/** By file name. */
export function drawCharts (results: Results): Record<string, string> {
  const { instructions = {}, throughput, exit = {}, memory, refusals, growth } = results
  const charts: Record<string, string> = {}
  for (const [load, counts] of Object.entries(instructions)) {
    charts[FILES[load as LoadName]] = bars(`Instructions a request, ${load}`, medians(counts))
  }
  if (throughput !== undefined) {
    charts['throughput'] = bars('Requests a second', only(throughput, 'requestsPerSecond'))
    charts['p99'] = bars('The slowest of a hundred requests (p99), in ms', only(throughput, 'p99'))
  }
  for (const [idle, times] of Object.entries(exit)) {
    charts[`exit-${idle}`] = bars(`SIGTERM → process gone, ${grouped(Number(idle))} idle connections, in ms (up to 1,000 drawn)`, times, { most: 1_000 })
  }
  if (memory !== undefined) {
    charts['memory-idle'] = bars('Bytes of heap for an idle connection', only(memory, 'idle'))
    charts['memory-in-flight'] = bars('Bytes of heap for a connection with a request in flight', only(memory, 'inFlight'))
  }
  if (refusals !== undefined) {
    const { refused, helloWorld } = refusals
    const ours = `refusals of ${OURS}`
    charts['refusals'] = bars('Responses a second, each closes its connection', {
      [ours]: refused.requestsPerSecond, 'hello worlds of bare Fastify': helloWorld.requestsPerSecond
    }, { ours })
  }
  if (growth !== undefined) {
    const ours = (what: keyof Costs) => growth.map(row => row.ours[what])
    charts['growth'] = lines('Growth: relative to one connection', growth.map(({ connections }) => connections), {
      'idle: SIGTERM → gone': ours('goneFromIdle'),
      'in flight: SIGTERM → gone': ours('goneFromInFlight'),
      'beside idle: one more request': ours('besideIdle'),
      'in flight: one more request': ours('besideInFlight'),
      'reading inFlightRequests': growth.map(({ read }) => read)
    })
  }
  return charts
}

/** One figure of each subject. */
function only<K extends string> (figures: Record<string, Record<K, number>>, what: K): Record<string, number> {
  return Object.fromEntries(Object.entries(figures).map(([subject, figure]) => [subject, figure[what]]))
}

const BAR = { left: 220, right: WIDTH - 110, height: 18, step: 28, top: 52 }

/** Bars longer than `most` are cut off there. */
function bars (title: string, figures: Record<string, number>, { ours = OURS, most = Infinity } = {}): string {
  const longest = Math.min(most, Math.max(...Object.values(figures)))
  const rows = Object.entries(figures).map(([subject, value], index) => {
    const y = BAR.top + index * BAR.step
    const width = Math.max(1, Math.round(Math.min(value, most) / longest * (BAR.right - BAR.left)))
    const isOurs = subject === ours
    return `<text x="${BAR.left - 10}" y="${y + 14}" text-anchor="end" fill="${COLOURS.text}"${isOurs ? ' font-weight="600"' : ''}>${subject}</text>
<rect x="${BAR.left}" y="${y}" width="${width}" height="${BAR.height}" fill="${isOurs ? COLOURS.ours : COLOURS.others}"/>
<text x="${BAR.left + width + 8}" y="${y + 14}" fill="${COLOURS.faint}">${value < 100 ? value.toFixed(1) : grouped(value)}</text>`
  })
  return svg(BAR.top + rows.length * BAR.step + 12, title, rows)
}

const PANEL = { left: 60, right: WIDTH - 230, top: 60, height: 260 }
const LINES = ['#1f8a53', '#e08a1e', '#2f6fd6', '#c2416b', '#8a4fbf']

/** Both axes are logarithmic: linear growth is the diagonal. */
function lines (title: string, counts: readonly number[], series: Record<string, number[]>): string {
  const bottom = PANEL.top + PANEL.height
  const tens = Math.log10(counts.at(-1) ?? 10)
  const x = (count: number) => Math.round(PANEL.left + Math.log10(count) / tens * (PANEL.right - PANEL.left))
  const y = (factor: number) => Math.round(bottom - Math.max(0, Math.log10(factor)) / tens * PANEL.height)
  const drawn = Object.entries(series).map(([name, values], index) => {
    const points = values.map((value, at) => `${x(counts[at] ?? 1)},${y(value / (values[0] ?? NaN))}`).join(' ')
    const colour = LINES[index % LINES.length]
    return `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="2.5"/>
<text x="${PANEL.right + 12}" y="${PANEL.top + 16 + 22 * index}" fill="${colour}">${name}</text>`
  })
  const ticks = counts.map(count => `<text x="${x(count)}" y="${bottom + 20}" text-anchor="middle" fill="${COLOURS.faint}">${grouped(count)}</text>
<text x="${PANEL.left - 8}" y="${y(count) + 4}" text-anchor="end" fill="${COLOURS.faint}">× ${grouped(count)}</text>`)
  return svg(bottom + 40, title, [
    `<path d="M${PANEL.left} ${PANEL.top}V${bottom}H${PANEL.right}" fill="none" stroke="${COLOURS.others}"/>`,
    `<path d="M${PANEL.left} ${bottom}L${PANEL.right} ${PANEL.top}" fill="none" stroke="${COLOURS.others}" stroke-dasharray="4 4"/>`,
    `<text x="${PANEL.right + 12}" y="${PANEL.top + 16 + 22 * drawn.length}" fill="${COLOURS.faint}">dashed: linear</text>`,
    ...ticks, ...drawn
  ])
}

function svg (height: number, title: string, content: readonly string[]): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ${FONT}>
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
<text x="24" y="30" font-size="16" font-weight="600" fill="${COLOURS.text}">${title}</text>
${content.join('\n')}
</svg>
`
}
