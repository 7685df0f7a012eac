// The results of the restarts: a table, and a picture.

import type { BalancerName } from './balancers.ts'
import type { ConnectionKind, Failed } from './load.ts'
import type { Colour } from '../../tools/picture.ts'
import { box, drawPicture, line, LINE, MARGIN, round, text, ticks, top } from '../../tools/picture.ts'

/** The first three are this plugin; the others have the same fixed delay. */
export type SubjectName = 'adaptive delay' | 'fixed delay' | 'no delay' | 'close-with-grace' | 'terminus'

export interface Run {
  balancer: BalancerName
  subject: SubjectName
  /** As configured, in milliseconds. */
  delay: number
  /** How long each restart has spent delaying, in milliseconds. */
  delaying: number[]
  requests: Record<ConnectionKind, number>
  failed: Failed[]
  /** When each restart began, in milliseconds since the load did. */
  restartsAt: number[]
  /** Processes that did not exit with 0. */
  unclean: number
  /** How often the load balancer took a running instance for down, because a check timed out. */
  lateChecks: number
  /** Failures per restart that the simulation predicts. */
  predicted: number | undefined
}

/** What is kept of a run, for the table and the picture. */
export interface Result extends Pick<Run, 'balancer' | 'subject' | 'delay' | 'delaying' | 'requests' | 'unclean'> {
  lost: Record<ConnectionKind, number>
}

export function toResult ({ balancer, subject, delay, delaying, requests, failed, unclean }: Run): Result {
  const countOf = (kind: ConnectionKind) => failed.filter(({ on }) => on === kind).length
  return { balancer, subject, delay, delaying, requests, lost: { kept: countOf('kept'), new: countOf('new') }, unclean }
}

const MOST_FAILURES = 20

/** Prints each failed request with its time since the start of its restart. */
export function printFailures ({ failed, restartsAt }: Run): void {
  for (const { at, what, on } of failed.slice(0, MOST_FAILURES)) {
    const restart = restartsAt.findLast(begin => begin <= at)
    const when = restart === undefined ? `${at}ms after the load began` : `${at - restart}ms after SIGTERM`
    console.log(`  failed ${when}, on a ${on} connection: ${what.replace(/\s+/g, ' ')}`)
  }
  if (failed.length > MOST_FAILURES) console.log(`  and ${failed.length - MOST_FAILURES} more`)
}

const THIRD = 1 / 3

/** Whether, of the results behind one balancer, the median of the adaptive delay is more than a third of the fixed one. */
export function isAdaptiveSlow (results: readonly Result[]): boolean {
  const adaptive = results.find(({ subject }) => subject === 'adaptive delay')
  return adaptive !== undefined && !(median(adaptive.delaying) <= adaptive.delay * THIRD)
}

function median (values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
}

const IN_TABLE: Record<SubjectName, string> = {
  'adaptive delay': 'fastify-graceful, adaptive delay',
  'fixed delay': 'fastify-graceful, fixed delay',
  'no delay': 'fastify-graceful, no delay',
  'close-with-grace': 'close-with-grace, fixed delay',
  terminus: '@godaddy/terminus, fixed delay'
}

/** In Markdown. */
export function table (results: readonly Result[]): string {
  const rows = results.map(({ balancer, subject, delaying, requests, lost, unclean }) => [
    BALANCER_NAMES[balancer], IN_TABLE[subject], delaying.length, requests.kept + requests.new, total(lost) === 0 ? '**0**' : total(lost),
    requests.kept === 0 ? '' : lost.kept, lost.new, `${seconds(median(delaying))} s`, `${seconds(Math.max(...delaying))} s`, unclean
  ])
  return [
    ['load balancer', 'shutdown by', 'restarts', 'requests', 'lost', 'on kept connections', 'on new ones', 'delaying, median', 'longest', 'exit code not 0'],
    Array.from({ length: 10 }, () => '---'),
    ...rows
  ].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const START_OF_TABLE = '<!-- rolling restarts -->\n'
const END_OF_TABLE = '\n<!-- /rolling restarts -->'

/** The page with these results in its table. */
export function withTable (page: string, results: readonly Result[]): string {
  const start = page.indexOf(START_OF_TABLE) + START_OF_TABLE.length
  return page.slice(0, start) + table(results) + page.slice(page.indexOf(END_OF_TABLE, start))
}

function total (lost: Result['lost']): number {
  return lost.kept + lost.new
}

function seconds (milliseconds: number): string {
  return (milliseconds / 1_000).toFixed(1)
}

const BALANCER_NAMES: Record<BalancerName, string> = {
  haproxy: 'HAProxy',
  'haproxy-h2': 'HAProxy, HTTP/2 to the instances',
  caddy: 'Caddy',
  nginx: 'nginx',
  direct: 'direct connections, as with kube-proxy'
}
const COLOURS: Record<SubjectName, Colour> = {
  'adaptive delay': 'green', 'fixed delay': 'green', 'no delay': 'orange', 'close-with-grace': 'grey', terminus: 'grey'
}

/** The two columns of bars: where they start and end, and what they show. */
const COLUMNS = [
  { left: 176, right: 316, axis: 'lost per restart', valueOf: ({ lost, delaying }: Result) => total(lost) / delaying.length },
  { left: 388, right: 528, axis: 'delay in seconds', valueOf: ({ delaying }: Result) => median(delaying) / 1_000 }
]
const LABEL_END = 168
const BAR = { height: 16, step: 24 }
const PANEL_GAP = 20

/** How many requests a restart loses, and how long it takes: a panel for each balancer, all with the same scale. */
export function drawRestarts (results: readonly Result[]): string {
  const balancers = [...new Set(results.map(({ balancer }) => balancer))]
  const subtitle = ['40 clients that never retry; each instance restarts in turn.', 'The first three of each are fastify-graceful.', 'Delay: the median. Lower is better.']
  const scales = COLUMNS.map(({ valueOf }) => Math.max(1, ...results.map(valueOf)))
  const drawing: string[] = []
  let y = top(subtitle.length) + 8
  for (const balancer of balancers) {
    const rows = results.filter(result => result.balancer === balancer)
    drawing.push(text(MARGIN, y + 14, BALANCER_NAMES[balancer], { bold: true }), ...drawPanel(rows, y + LINE, scales))
    y += LINE + rows.length * BAR.step + 2 * LINE + PANEL_GAP
  }
  return drawPicture({
    id: 'rolling',
    title: 'Rolling restarts: lost requests, and the delay',
    subtitle,
    description: `Lost requests per restart, and the median of the delay, by load balancer and by what shuts the instances down. ${balancers.map(balancer =>
      `${BALANCER_NAMES[balancer]}: ${results.filter(result => result.balancer === balancer).map(result =>
        `${IN_TABLE[result.subject]} ${COLUMNS.map(({ valueOf }) => format(valueOf(result))).join(' lost, ')} s`).join('; ')}`).join('. ')}.`,
    height: y - PANEL_GAP + MARGIN
  }, drawing)
}

function drawPanel (rows: readonly Result[], panelTop: number, scales: readonly number[]): string[] {
  const bottom = panelTop + rows.length * BAR.step
  const drawing = rows.map(({ subject }, index) =>
    text(LABEL_END, panelTop + index * BAR.step + 15, subject, { anchor: 'end', bold: COLOURS[subject] === 'green' }))
  for (const [column, { left, right, axis, valueOf }] of COLUMNS.entries()) {
    const most = scales[column] as number
    const x = (value: number) => left + value / most * (right - left)
    for (const [index, result] of rows.entries()) {
      const y = panelTop + index * BAR.step
      const value = valueOf(result)
      const colour = COLOURS[result.subject]
      if (value > 0) drawing.push(box(left, y + 2, Math.max(1, x(value) - left), BAR.height, colour))
      drawing.push(text(x(value) + 6, y + 15, format(value), { bold: colour === 'green' }))
    }
    drawing.push(line(`M${left} ${panelTop}V${bottom}H${right}`, 'faint'), text(left, bottom + 2 * LINE - 2, axis, { colour: 'faint' }))
    for (const value of ticks(most)) {
      drawing.push(
        line(`M${round(x(value))} ${bottom}v6`, 'faint'), text(x(value), bottom + LINE, String(value), { anchor: 'middle', colour: 'faint' })
      )
    }
  }
  return drawing
}

function format (value: number): string {
  return value === 0 ? '0' : value.toFixed(1)
}
