// The results as pictures: bars for each subject, lines for the growth.

import type { Colour } from '../tools/picture.ts'
import type { Costs } from './growth.ts'
import type { LoadName, Results } from './results.ts'
import { box, drawPicture, line, LINE, MARGIN, round, text, ticks, top, WIDTH } from '../tools/picture.ts'
import { medians } from './results.ts'
import { OURS, WATCHED } from './subjects.ts'
import { grouped } from './tables.ts'

const INSTRUCTIONS: Record<LoadName, [file: string, title: string]> = {
  'without a logger': ['instructions', 'Instructions per request, without a logger'],
  'with the logger': ['instructions-with-logger', 'Instructions per request, with the logger'],
  'without a logger, pipelined 16 deep': ['instructions-pipelined', 'Instructions per request, pipelined 16 deep']
}

/** By subject. */
type Figures = Record<string, number>

/** By file name. Pictures that are looked at together have the same scale. */
export function drawCharts (results: Results): Record<string, string> {
  const { instructions = {}, throughput, exit = {}, memory, refusals, growth } = results
  const charts: Record<string, string> = {}
  const add = (axis: string, note: string, panels: Array<[file: string, title: string, figures: Figures, ours?: string]>) => {
    const most = Math.max(...panels.flatMap(([,, figures]) => Object.values(figures)))
    for (const [file, title, figures, ours = OURS] of panels) charts[file] = drawBars({ file, title, axis, note, figures, most, ours })
  }
  add('instructions per request', 'Lower is better.', Object.entries(instructions).map(([load, counts]) => {
    // As long a bar as without subscribers.
    const { [WATCHED]: _watched, ...figures } = medians(counts)
    const [file, title] = INSTRUCTIONS[load as LoadName]
    return [file, title, figures]
  }))
  if (throughput !== undefined) {
    add('requests per second', 'Higher is better.', [['throughput', 'Requests per second', only(throughput, 'requestsPerSecond')]])
    add('milliseconds', 'Lower is better.', [['p99', 'Latency of a request, 99th percentile', only(throughput, 'p99')]])
  }
  add('milliseconds from SIGTERM to the exit', 'Lower is better.', Object.entries(exit).map(([idle, times]) =>
    [`exit-${idle}`, `SIGTERM to exit, ${idle === '0' ? 'no' : grouped(Number(idle))} idle connections`, times]))
  if (memory !== undefined) {
    add('bytes of heap per connection', 'Lower is better.', [
      ['memory-idle', 'Memory of an idle connection', only(memory, 'idle')],
      ['memory-in-flight', 'Memory with a request in flight', only(memory, 'inFlight')]
    ])
  }
  if (refusals !== undefined) {
    const { refused, helloWorld } = refusals
    const ours = `${OURS}, 503`
    add('responses per second', 'Each response closes its connection. Higher is better.', [['refusals', 'Rejected requests compared with served ones', {
      [ours]: refused.requestsPerSecond, 'bare Fastify, 200': helloWorld.requestsPerSecond
    }, ours]])
  }
  if (growth !== undefined) {
    const ours = (what: keyof Costs) => growth.map(row => row.ours[what])
    charts['growth'] = drawGrowth(growth.map(({ connections }) => connections), {
      'SIGTERM to exit, idle connections': ours('goneFromIdle'),
      'SIGTERM to exit, requests in flight': ours('goneFromInFlight'),
      'one more request, idle connections': ours('besideIdle'),
      'one more request, requests in flight': ours('besideInFlight'),
      'reading inFlightRequests': growth.map(({ read }) => read)
    })
  }
  return charts
}

/** One figure of each subject. */
function only<K extends string> (figures: Record<string, Record<K, number>>, what: K): Figures {
  return Object.fromEntries(Object.entries(figures).map(([subject, figure]) => [subject, figure[what]]))
}

const BAR = { left: 258, right: WIDTH - 92, height: 20, step: 30 }

interface Bars {
  file: string
  title: string
  axis: string
  note: string
  figures: Figures
  /** Where the axis ends. */
  most: number
  ours: string
}

function drawBars ({ file, title, axis, note, figures, most, ours }: Bars): string {
  const x = (value: number) => BAR.left + value / most * (BAR.right - BAR.left)
  const first = top(1) + 4
  const rows = Object.entries(figures).flatMap(([subject, value], index) => {
    const y = first + index * BAR.step
    const isOurs = subject === ours
    return [
      text(BAR.left - 8, y + 16, subject, { anchor: 'end', bold: isOurs }),
      box(BAR.left, y, Math.max(1, x(value) - BAR.left), BAR.height, isOurs ? 'green' : 'grey'),
      text(x(value) + 6, y + 16, format(value), { bold: isOurs })
    ]
  })
  const bottom = first + Object.keys(figures).length * BAR.step
  return drawPicture({
    id: file,
    title,
    subtitle: [note],
    description: `${axis}: ${Object.entries(figures).map(([subject, value]) => `${subject} ${format(value)}`).join('; ')}. ${note}`,
    height: bottom + 2 * LINE + MARGIN
  }, [
    ...rows,
    line(`M${BAR.left} ${bottom}H${BAR.right}`, 'faint'),
    ...ticks(most, 3).flatMap(value => [
      line(`M${round(x(value))} ${bottom}v6`, 'faint'),
      text(x(value), bottom + LINE, grouped(value), { anchor: 'middle', colour: 'faint' })
    ]),
    text(WIDTH - MARGIN, bottom + 2 * LINE, axis, { anchor: 'end', colour: 'faint' })
  ])
}

function format (value: number): string {
  return value < 100 ? value.toFixed(1) : grouped(value)
}

const PLOT = { left: 76, right: WIDTH - 48, height: 260 }
/** Distinguishable without their colours. */
const LINES: ReadonlyArray<{ colour: Colour, dashes: string }> = [
  { colour: 'green', dashes: '' },
  { colour: 'orange', dashes: '12 4' },
  { colour: 'blue', dashes: '6 4' },
  { colour: 'red', dashes: '2 3' },
  { colour: 'purple', dashes: '12 4 2 4' }
]

/** Both axes are logarithmic: linear growth is a straight line. */
function drawGrowth (counts: readonly number[], series: Record<string, number[]>): string {
  const factors = Object.fromEntries(Object.entries(series).map(([name, values]) =>
    [name, values.map(value => value / (values[0] ?? NaN))]))
  const all = Object.values(factors).flat()
  const [low, high] = [Math.log10(Math.min(0.5, ...all)), Math.ceil(Math.log10(Math.max(10, ...all)))]
  const most = Math.log10(counts.at(-1) ?? 10)
  const subtitle = ['Compared with one connection. Lower is better.']
  const legendTop = top(subtitle.length) + 12
  const entries = Object.keys(factors)
  const plotTop = legendTop + entries.length * LINE + LINE + 20
  const bottom = plotTop + PLOT.height
  const x = (count: number) => round(PLOT.left + Math.log10(count) / most * (PLOT.right - PLOT.left))
  const y = (factor: number) => round(bottom - (Math.log10(factor) - low) / (high - low) * PLOT.height)
  const linear = Math.min(high, most)
  const tens = Array.from({ length: high + 1 }, (_, index) => 10 ** index)
  return drawPicture({
    id: 'growth',
    title: 'Growth with the number of connections',
    subtitle,
    description: `With ${grouped(counts.at(-1))} connections, compared with one: ` +
      `${Object.entries(factors).map(([name, values]) => `${name} × ${values.at(-1)?.toFixed(1)}`).join('; ')}. A dotted line shows linear growth.`,
    height: bottom + 2 * LINE + MARGIN
  }, [
    ...entries.flatMap((name, index) => {
      const { colour, dashes } = styleOf(index)
      const middle = legendTop + index * LINE
      return [line(`M${MARGIN} ${middle}h44`, colour, { width: 3, dashes }), text(MARGIN + 54, middle + 5, name)]
    }),
    text(MARGIN, plotTop - 20, 'times the cost with one connection', { colour: 'faint' }),
    line(`M${PLOT.left} ${plotTop}V${bottom}H${PLOT.right}`, 'faint'),
    line(`M${x(1)} ${y(1)}L${x(10 ** linear)} ${y(10 ** linear)}`, 'grey', { width: 1.5, dashes: '1 4' }),
    text(x(10 ** linear) + 8, y(10 ** linear) + 12, 'linear growth', { colour: 'faint' }),
    ...counts.flatMap(count => [
      line(`M${x(count)} ${bottom}v6`, 'faint'), text(x(count), bottom + LINE, grouped(count), { anchor: 'middle', colour: 'faint' })
    ]),
    ...tens.flatMap(factor => [
      line(`M${PLOT.left} ${y(factor)}h-6`, 'faint'), text(PLOT.left - 10, y(factor) + 6, `× ${grouped(factor)}`, { anchor: 'end', colour: 'faint' })
    ]),
    text((PLOT.left + PLOT.right) / 2, bottom + 2 * LINE, 'connections', { anchor: 'middle', colour: 'faint' }),
    ...Object.values(factors).map((values, index) => {
      const { colour, dashes } = styleOf(index)
      const points = values.map((factor, at) => `${x(counts[at] ?? 1)} ${y(factor)}`)
      return line(`M${points.join('L')}`, colour, { width: 3, dashes })
    })
  ])
}

function styleOf (index: number): typeof LINES[number] {
  return LINES[index % LINES.length] as typeof LINES[number]
}
