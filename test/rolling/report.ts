// What the restarts came to: a table, and a picture of the failures over time.

import type { BalancerName } from './balancers.ts'
import type { Failed } from './load.ts'

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

const MOST_FAILURES = 20

/** Each failed request, by when it was in its restart. */
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

const WIDTH = 900
const PANEL = { left: 60, right: WIDTH - 230, height: 170, gap: 60, top: 70 }
const COLOURS: Record<VariantName, string> = {
  'fastify-graceful': '#1f8a53',
  'fastify-graceful, no delay': '#e08a1e',
  'close-with-grace': '#d1242f'
}

/** Failed requests, added up over the time of the run: a panel for each balancer, a line for each variant. */
export function drawFailures (runs: readonly Run[]): string {
  const balancers = [...new Set(runs.map(({ balancer }) => balancer))]
  const height = PANEL.top + balancers.length * (PANEL.height + PANEL.gap)
  const panels = balancers.map((balancer, index) =>
    drawPanel(runs.filter(run => run.balancer === balancer), balancer, PANEL.top + index * (PANEL.height + PANEL.gap)))
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13">
<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>
<text x="24" y="32" font-size="18" font-weight="600" fill="#1f2733">Failed requests during rolling restarts, added up</text>
${panels.join('\n')}
</svg>
`
}

function drawPanel (runs: readonly Run[], balancer: string, top: number): string {
  const bottom = top + PANEL.height
  const most = Math.max(1, ...runs.map(({ failed }) => failed.length))
  const longest = Math.max(...runs.map(({ time }) => time))
  const x = (at: number) => Math.round(PANEL.left + at / longest * (PANEL.right - PANEL.left))
  const y = (count: number) => Math.round(bottom - count / most * PANEL.height)
  const lines = runs.map(({ variant, failed, time }, line) => {
    const steps = failed.map(({ at }, index) => `H${x(at)}V${y(index + 1)}`).join('')
    return `<path d="M${x(0)} ${y(0)}${steps}H${x(time)}" fill="none" stroke="${COLOURS[variant]}" stroke-width="2.5"/>
<text x="${PANEL.right + 10}" y="${top + 16 + 22 * line}" fill="${COLOURS[variant]}">${variant}: ${failed.length}</text>`
  })
  const seconds = Math.round(longest / 1000)
  return `<text x="${PANEL.left}" y="${top - 12}" font-weight="600" fill="#1f2733">${balancer}, ${runs[0]?.times.length} restarts</text>
<path d="M${PANEL.left} ${top}V${bottom}H${PANEL.right}" fill="none" stroke="#9aa4b1"/>
<text x="${PANEL.left - 8}" y="${top + 5}" text-anchor="end" fill="#5b6675">${most}</text>
<text x="${PANEL.left - 8}" y="${bottom + 4}" text-anchor="end" fill="#5b6675">0</text>
<text x="${PANEL.right}" y="${bottom + 18}" text-anchor="end" fill="#5b6675">${seconds} s</text>
${lines.join('\n')}`
}
