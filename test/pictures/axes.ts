// The axes of a picture. They are not marked in the SVG: an axis is a line on which ticks start.

import { LINE } from '../../tools/picture.ts'
import { pointsOf, type Element } from './parse.ts'

type Point = readonly [x: number, y: number]
interface Segment { from: Point, to: Point }

const LONGEST_TICK = 7

/** @throws if a tick is not on an axis */
export function axesOf (elements: readonly Element[]): Segment[] {
  const segments = elements.filter(({ attributes }) => attributes['class'] === 'faint-line').flatMap(element => {
    const points = pointsOf(element)
    return points.slice(1).map((to, index) => ({ from: points[index] as Point, to }))
  })
  const isTick = ({ from, to }: Segment) => Math.hypot(to[0] - from[0], to[1] - from[1]) <= LONGEST_TICK
  const ticks = segments.filter(isTick)
  const lines = segments.filter(segment => !isTick(segment))
  for (const tick of ticks) if (!lines.some(line => isOn(tick, line))) throw new Error(`A tick without an axis, at ${tick.from.join(', ')}`)
  return lines.filter(line => ticks.some(tick => isOn(tick, line)))
}

/** If one name in a row of axes is missing, all of the row are returned: a name may extend beyond its axis. */
export function axesWithoutName (elements: readonly Element[]): Segment[] {
  const names = elements.filter(({ name, content }) => name === 'text' && /[a-z]/.test(content)).map(({ attributes }) => Number(attributes['y']))
  const axes = axesOf(elements)
  return axes.filter(axis => {
    const [top, bottom] = placeOfName(axis)
    const row = axes.filter(other => placeOfName(other)[0] === top)
    return names.filter(y => y > top && y <= bottom).length < row.length
  })
}

/** Below a horizontal axis and its numbers, on the line above a vertical one. */
function placeOfName (axis: Segment): [top: number, bottom: number] {
  const y = Math.min(axis.from[1], axis.to[1])
  return isVertical(axis) ? [y - LINE, y] : [y + LINE, y + 2 * LINE]
}

/** Whether the tick starts on the line, at a right angle. */
function isOn (tick: Segment, line: Segment): boolean {
  const [along, across] = isVertical(line) ? [1, 0] as const : [0, 1] as const
  const start = tick.from[along]
  return isVertical(tick) !== isVertical(line) && tick.from[across] === line.from[across] &&
    start >= Math.min(line.from[along], line.to[along]) && start <= Math.max(line.from[along], line.to[along])
}

function isVertical ({ from, to }: Segment): boolean {
  return from[0] === to[0]
}
