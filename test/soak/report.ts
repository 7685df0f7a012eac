// The results of the soak: a summary, and a picture.

import { box, drawPicture, line, LINE, MARGIN, round, text, ticks, top, WIDTH } from '../../tools/picture.ts'
import type { Sample } from './measure.ts'

export interface Results {
  machine: string
  date: string
  minutes: number
  /** How often clients came. */
  visits: number
  /** Before the instances were created. */
  before: Sample
  load: Sample[]
  /** After all instances were closed. */
  closed: Sample
  instances: Sample[]
}

const MIB = 1024 * 1024

export function summary ({ machine, date, minutes, visits, before, load, closed, instances }: Results): string {
  const show = (counts: Record<string, number>) => Object.entries(counts).map(([name, count]) => `${name} ${count}`).join(', ')
  const row = (name: string, sample: Sample | undefined) => sample === undefined
    ? []
    : [`  ${name}: heap ${mib(sample)} MiB; listeners: ${show(sample.listeners)}; resources: ${show(sample.resources)}`]
  return [
    `${machine}, ${date}`,
    `${minutes} minutes, ${visits} visits of clients, ${load.at(-1)?.done ?? 0} requests, ${load.length} samples`,
    ...row('before', before), ...row('first', load[0]), ...row('a quarter', load[Math.ceil(load.length / 4)]), ...row('last', load.at(-1)), ...row('after close()', closed),
    `${instances.at(-1)?.done ?? 0} instances, ${instances.length} samples`,
    ...row('first', instances[0]), ...row('a quarter', instances[Math.ceil(instances.length / 4)]), ...row('last', instances.at(-1))
  ].join('\n')
}

function mib ({ heap }: Sample): string {
  return (heap / MIB).toFixed(2)
}

const PLOT = { left: 76, right: WIDTH - 52, height: 110, gap: 20 }

interface Panel {
  title: string
  samples: readonly Sample[]
  valueOf: (sample: Sample) => number
  xOf: (sample: Sample) => number
  axis: string
}

/** Four panels: the heap, and all listeners and resources together, under load and over the instances. */
export function drawSoak (results: Results): string {
  const count = (counts: Record<string, number>) => Object.values(counts).reduce((sum, one) => sum + one, 0)
  const kinds = [
    { name: 'heap after a collection, in MiB', valueOf: ({ heap }: Sample) => heap / MIB },
    { name: 'listeners, timers and handles', valueOf: ({ listeners, resources }: Sample) => count(listeners) + count(resources) }
  ]
  const runs = [
    { name: 'Mixed load', samples: results.load, xOf: ({ at }: Sample) => at / 60, axis: 'minutes' },
    { name: 'Instances in one process', samples: results.instances, xOf: ({ done }: Sample) => done, axis: 'instances created and closed' }
  ]
  const panels = runs.flatMap(({ name, samples, xOf, axis }) =>
    kinds.map(kind => ({ title: `${name}: ${kind.name}`, samples, valueOf: kind.valueOf, xOf, axis })))
  const subtitle = [
    `${grouped(results.load.at(-1)?.done)} requests of clients that come and go, then`,
    `${grouped(results.instances.at(-1)?.done)} instances, each used and closed. Flat is good.`
  ]
  const first = top(subtitle.length) + 16
  const step = PLOT.height + 4 * LINE + PLOT.gap
  return drawPicture({
    id: 'soak',
    title: 'Memory, listeners, timers and handles',
    subtitle,
    description: panels.map(({ title, samples, valueOf }) =>
      `${title}: ${round(valueOf(samples[0] as Sample))} at first, ${round(valueOf(samples.at(-1) as Sample))} at last`).join('; ') + '.',
    height: first + panels.length * step - PLOT.gap + MARGIN
  }, panels.flatMap((panel, index) => drawPanel(panel, first + index * step)))
}

function drawPanel ({ title, samples, valueOf, xOf, axis }: Panel, panelTop: number): string[] {
  const plotTop = panelTop + LINE
  const bottom = plotTop + PLOT.height
  const most = Math.max(...samples.map(valueOf)) * 1.1
  const longest = xOf(samples.at(-1) as Sample)
  const x = (value: number) => PLOT.left + value / longest * (PLOT.right - PLOT.left)
  const y = (value: number) => bottom - value / most * PLOT.height
  const points = samples.map(sample => `${round(x(xOf(sample)))} ${round(y(valueOf(sample)))}`)
  return [
    text(MARGIN, panelTop + 10, title, { bold: true }),
    ...samples.map(sample => box(x(xOf(sample)) - 2, y(valueOf(sample)) - 2, 4, 4, 'green')),
    line(`M${points.join('L')}`, 'green', { width: 2 }),
    line(`M${PLOT.left} ${plotTop}V${bottom}H${PLOT.right}`, 'faint'),
    ...ticks(most, 3).flatMap(value => [
      line(`M${PLOT.left} ${round(y(value))}h-6`, 'faint'), text(PLOT.left - 10, y(value) + 6, grouped(value), { anchor: 'end', colour: 'faint' })
    ]),
    ...ticks(longest).flatMap(value => [
      line(`M${round(x(value))} ${bottom}v6`, 'faint'), text(x(value), bottom + LINE, grouped(value), { anchor: 'middle', colour: 'faint' })
    ]),
    text((PLOT.left + PLOT.right) / 2, bottom + 2 * LINE, axis, { anchor: 'middle', colour: 'faint' })
  ]
}

function grouped (value = 0): string {
  return round(value).toLocaleString('en-US')
}
