// The results of the restarts: a table, and a picture of the failures over time.

import type { BalancerName } from './balancers.ts'
import type { Failed } from './load.ts'
import type { Colour } from '../../tools/picture.ts'
import { drawPicture, line, LINE, MARGIN, text, ticks, top, WIDTH } from '../../tools/picture.ts'

export type VariantName = 'fastify-graceful' | 'fastify-graceful, no delay' | 'close-with-grace'

export interface Run {
  balancer: BalancerName
  variant: VariantName
  requests: number
  failed: Failed[]
  /** When each restart began, and how long it took, in milliseconds. */
  restartsAt: number[]
  times: number[]
  time: number
  /** Processes that did not exit with 0. */
  unclean: number
  /** Failures per restart that the simulation predicts. */
  predicted: number | undefined
}

/** What the picture shows of a run. */
export interface Drawn {
  balancer: BalancerName
  variant: VariantName
  restarts: number
  /** Milliseconds of load. */
  time: number
  /** When requests failed, in milliseconds since the load began. */
  failed: number[]
}

export function toDrawn ({ balancer, variant, times, time, failed }: Run): Drawn {
  return { balancer, variant, restarts: times.length, time: Math.round(time), failed: failed.map(({ at }) => at) }
}

const MOST_FAILURES = 20

/** Prints each failed request with its time since the start of its restart. */
export function printFailures ({ failed, restartsAt }: Run): void {
  for (const { at, what } of failed.slice(0, MOST_FAILURES)) {
    const since = at - (restartsAt.findLast(begin => begin <= at) ?? 0)
    console.log(`  failed ${since}ms after SIGTERM: ${what.replace(/\s+/g, ' ')}`)
  }
  if (failed.length > MOST_FAILURES) console.log(`  and ${failed.length - MOST_FAILURES} more`)
}

/** In Markdown. */
export function table (runs: readonly Run[]): string {
  const lines = runs.map(({ balancer, variant, requests, failed, times, unclean, predicted }) => {
    const kinds = byKind(failed)
    const told = [...kinds].map(([kind, ones]) => `${ones.length} × ${kind}`).join(', ')
    const sorted = [...times].sort((a, b) => a - b)
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0
    return [
      balancer, variant, times.length, requests, failed.length === 0 ? '**0**' : `${failed.length} (${told})`,
      (failed.length / times.length).toFixed(1), predicted?.toFixed(1) ?? '', unclean, `${(median / 1000).toFixed(1)} s`, `${((sorted.at(-1) ?? 0) / 1000).toFixed(1)} s`
    ]
  })
  return [
    ['balancer', 'shutdown by', 'restarts', 'requests', 'failed', 'per restart', 'predicted', 'exit code not 0', 'time, median', 'time, longest'],
    Array.from({ length: 10 }, () => '---'),
    ...lines
  ].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

function byKind (failed: readonly Failed[]): Map<string, Failed[]> {
  const kinds = new Map<string, Failed[]>()
  for (const one of failed) kinds.set(one.kind, [...kinds.get(one.kind) ?? [], one])
  return kinds
}

const NAMES: Record<BalancerName, string> = { haproxy: 'HAProxy', nginx: 'nginx', direct: 'direct connections, as with kube-proxy' }
/** Distinguishable without their colours. */
const STYLES: Record<VariantName, { colour: Colour, dashes: string }> = {
  'fastify-graceful': { colour: 'green', dashes: '' },
  'fastify-graceful, no delay': { colour: 'orange', dashes: '9 4' },
  'close-with-grace': { colour: 'red', dashes: '3 3' }
}
const PLOT = { left: 60, right: WIDTH - 64, height: 150, gap: 28 }

/** Failed requests so far: a panel for each balancer, all with the same scale, and a line for each variant. */
export function drawFailures (runs: readonly Drawn[]): string {
  const balancers = [...new Set(runs.map(({ balancer }) => balancer))]
  const variants = [...new Set(runs.map(({ variant }) => variant))]
  const scale = {
    most: Math.max(1, ...runs.map(({ failed }) => failed.length)),
    longest: Math.max(...runs.map(({ time }) => time))
  }
  const subtitle = ['40 clients that never retry; each instance restarts in turn']
  const legendTop = top(subtitle.length) + 12
  const legend = variants.flatMap((variant, index) => {
    const middle = legendTop + index * LINE
    return [line(`M${MARGIN} ${middle}h44`, STYLES[variant].colour, { width: 3, dashes: STYLES[variant].dashes }), text(MARGIN + 54, middle + 5, variant)]
  })
  const first = legendTop + variants.length * LINE + 16
  const step = PLOT.height + 4 * LINE + PLOT.gap
  const panels = balancers.flatMap((balancer, index) =>
    drawPanel(runs.filter(run => run.balancer === balancer), NAMES[balancer], first + index * step, scale))
  return drawPicture({
    id: 'rolling',
    title: 'Failed requests during rolling restarts',
    subtitle,
    description: `Failed requests by load balancer and by what shuts the instances down. ${balancers.map(balancer =>
      `${NAMES[balancer]}: ${runs.filter(run => run.balancer === balancer).map(({ variant, failed }) => `${variant} ${failed.length}`).join('; ')}`).join('. ')}.`,
    height: first + balancers.length * step - PLOT.gap + MARGIN
  }, [...legend, ...panels])
}

type Scale = Record<'most' | 'longest', number>

function drawPanel (runs: readonly Drawn[], name: string, panelTop: number, { most, longest }: Scale): string[] {
  const plotTop = panelTop + 2 * LINE
  const bottom = plotTop + PLOT.height
  const x = (at: number) => Math.round(PLOT.left + at / longest * (PLOT.right - PLOT.left))
  const y = (count: number) => Math.round(bottom - count / most * PLOT.height)
  return [
    text(MARGIN, panelTop + 10, `${name}, ${runs[0]?.restarts} restarts`, { bold: true }),
    text(MARGIN, panelTop + 10 + LINE, 'failed requests so far', { colour: 'faint' }),
    line(`M${PLOT.left} ${plotTop}V${bottom}H${PLOT.right}`, 'faint'),
    ...ticks(most).flatMap(count => [
      line(`M${PLOT.left} ${y(count)}h-6`, 'faint'), text(PLOT.left - 10, y(count) + 6, String(count), { anchor: 'end', colour: 'faint' })
    ]),
    ...ticks(longest / 1_000).flatMap(seconds => [
      line(`M${x(1_000 * seconds)} ${bottom}v6`, 'faint'), text(x(1_000 * seconds), bottom + LINE, String(seconds), { anchor: 'middle', colour: 'faint' })
    ]),
    text((PLOT.left + PLOT.right) / 2, bottom + 2 * LINE, 'seconds', { anchor: 'middle', colour: 'faint' }),
    ...runs.map(({ variant, failed, time }) => {
      const steps = failed.map((at, index) => `H${x(at)}V${y(index + 1)}`).join('')
      return line(`M${x(0)} ${y(0)}${steps}H${x(time)}`, STYLES[variant].colour, { width: 3, dashes: STYLES[variant].dashes })
    }),
    ...totals(runs, y).map(({ total, variant, time, at }) =>
      text(x(time) + 8, Math.min(at, bottom - 5), String(total), { colour: STYLES[variant].colour, bold: true }))
  ]
}

/** At the ends of the lines. If two are too near each other, the upper one is moved up. */
function totals (runs: readonly Drawn[], y: (count: number) => number) {
  let lowest = Infinity
  const sorted = [...runs].sort((a, b) => a.failed.length - b.failed.length || b.time - a.time)
  return sorted.map(({ variant, time, failed: { length: total } }) => {
    lowest = Math.min(y(total) + 6, lowest - LINE + 2)
    return { variant, time, total, at: lowest }
  })
}
