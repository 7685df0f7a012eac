// The results of the reconnects: a table, and a picture.

import { box, drawPicture, line, LINE, MARGIN, round, text, ticks, top, WIDTH } from '../../tools/picture.ts'
import { grouped } from '../tables.ts'

/** Milliseconds in which reconnects are counted together. */
export const STEP = 100

export interface Run {
  /** The option, in milliseconds. */
  spread: number
  clients: number
  /** How many clients connected to the other instance in each STEP since SIGTERM. */
  reconnects: number[]
  /** The median and the longest time that a client took to reconnect, in milliseconds. */
  wait: Record<'median' | 'longest', number>
}

export interface Results {
  machine: string
  date: string
  runs: Run[]
}

/** In Markdown. */
export function table ({ machine, date, runs }: Results): string {
  const rows = runs.map(({ spread, reconnects, wait }) => [
    `\`spread: ${spread}\``, grouped(Math.max(...reconnects)), seconds(reconnects.findIndex(count => count > 0)), seconds(reconnects.length),
    `${grouped(wait.median)} ms`, `${grouped(wait.longest)} ms`
  ])
  const head = [`${grouped(runs[0]?.clients)} clients`, 'most reconnects in 100 ms', 'first after', 'last after', 'time to reconnect, median', 'longest']
  return `${[head, head.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')}\n\n${machine}, ${date}`
}

function seconds (steps: number): string {
  return `${(steps * STEP / 1_000).toFixed(1)} s`
}

const PLOT = { left: 76, right: WIDTH - 32, height: 150, gap: 28 }

/** A panel for each run, all with the same scale. */
export function drawReconnects ({ runs }: Results): string {
  const scale = {
    most: Math.max(...runs.flatMap(({ reconnects }) => reconnects)),
    steps: Math.max(...runs.map(({ reconnects }) => reconnects.length))
  }
  const clients = grouped(runs[0]?.clients)
  const subtitle = [`${clients} WebSocket clients of an instance that gets SIGTERM`]
  const first = top(subtitle.length) + 16
  const step = PLOT.height + 4 * LINE + PLOT.gap
  return drawPicture({
    id: 'reconnects',
    title: 'Reconnects to the other instance',
    subtitle,
    description: `Reconnects per ${STEP} ms after SIGTERM. ${runs.map(({ spread, reconnects }) =>
      `spread: ${spread}: at most ${grouped(Math.max(...reconnects))}, the last one within ${seconds(reconnects.length)}`).join('; ')}.`,
    height: first + runs.length * step - PLOT.gap + MARGIN
  }, runs.flatMap((run, index) => drawPanel(run, first + index * step, scale)))
}

function drawPanel ({ spread, reconnects }: Run, panelTop: number, { most, steps }: Record<'most' | 'steps', number>): string[] {
  const plotTop = panelTop + 2 * LINE
  const bottom = plotTop + PLOT.height
  const width = (PLOT.right - PLOT.left) / steps
  const x = (index: number) => PLOT.left + index * width
  const y = (count: number) => bottom - count / most * PLOT.height
  return [
    text(MARGIN, panelTop + 10, `spread: ${spread}${spread === 0 ? ' (default)' : ''}, at most ${grouped(Math.max(...reconnects))}`, { bold: true }),
    text(MARGIN, panelTop + 10 + LINE, `reconnects per ${STEP} ms`, { colour: 'faint' }),
    ...reconnects.map((count, index) => box(x(index) + 0.5, y(count), width - 1, bottom - y(count), spread === 0 ? 'grey' : 'green')),
    line(`M${PLOT.left} ${plotTop}V${bottom}H${PLOT.right}`, 'faint'),
    ...ticks(most).flatMap(count => [
      line(`M${PLOT.left} ${round(y(count))}h-6`, 'faint'), text(PLOT.left - 10, y(count) + 6, grouped(count), { anchor: 'end', colour: 'faint' })
    ]),
    ...ticks(steps * STEP / 1_000).flatMap(second => {
      const at = x(second * 1_000 / STEP)
      return [line(`M${round(at)} ${bottom}v6`, 'faint'), text(at, bottom + LINE, String(second), { anchor: 'middle', colour: 'faint' })]
    }),
    text((PLOT.left + PLOT.right) / 2, bottom + 2 * LINE, 'seconds since SIGTERM', { anchor: 'middle', colour: 'faint' })
  ]
}
