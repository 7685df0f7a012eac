// The run as a picture: what happened to each request, and what the probes answered, over time.

import type { Colour } from '../../tools/picture.ts'
import type { Call, Outcome, Recording } from './recording.ts'
import { box, drawPicture, line, LINE, MARGIN, round, text, top, WIDTH } from '../../tools/picture.ts'
import { count } from './recording.ts'

/** On the right is room for the name of a phase that ends with the process. */
const PLOT = { left: MARGIN, right: WIDTH - 84 }
const LANE = { height: 5, bar: 3.5 }
const STRIP = 26
const GAP = 14
const KNOCKS = 28
const PROBE = 24
/** Milliseconds before the first request and after the exit. */
const MARGIN_MS = 60

const OUTCOMES: Record<Outcome, { colour: Colour, height: number, name: string }> = {
  answered: { colour: 'green', height: KNOCKS, name: 'answered' },
  refused: { colour: 'orange', height: 18, name: '503' },
  'turned away': { colour: 'grey', height: 9, name: 'not connected' },
  lost: { colour: 'red', height: KNOCKS, name: 'lost' }
}
const TINTS: Readonly<Record<string, Colour>> = {
  running: 'tint-green', delaying: 'tint-yellow', draining: 'tint-blue', closing: 'tint-purple'
}
/** Text cannot be measured here. No letter of a usual font is wider than this, on average. */
const LETTER = 10

type Scale = (at: number) => number

export function drawTimeline (recording: Recording): string {
  const { load, knocks, probes, signalAt, exitAt } = recording
  const start = Math.min(...load.map(call => call.start)) - MARGIN_MS
  const end = exitAt + MARGIN_MS
  const x = (at: number) => round(PLOT.left + (at - start) / (end - start) * (PLOT.right - PLOT.left))

  const subtitle = summary(recording)
  const stripTop = top(subtitle.length) + LINE
  const drawn = [
    text(x(signalAt), stripTop - 8, 'SIGTERM', { anchor: 'middle', bold: true }),
    text(x(exitAt), stripTop - 8, `exit ${recording.killed ? 'by force' : recording.exitCode}`, { anchor: 'middle', bold: true }),
    ...phases(recording, x, stripTop)
  ]
  let y = stripTop + STRIP + GAP
  /** A heading with the legend, and below it what `draw` returns, on the bands of the phases. */
  const block = (heading: string, entries: Array<[name: string, colour: Colour]>, height: number, draw: (top: number) => string[]) => {
    drawn.push(text(PLOT.left, y + 15, heading), ...legend(entries, y + 15))
    y += LINE + 1
    drawn.push(...bands(recording, x, y, height), ...draw(y), ...marks(recording, x, y, height))
    y += height + GAP
  }
  const isLost = load.some(({ outcome }) => outcome !== 'answered')
  block(`${load.length} requests, a bar each`, [['read', 'blue'], ['write', 'purple'], ...isLost ? [['lost', 'red']] satisfies Array<[string, Colour]> : []],
    load.length * LANE.height, lanesTop => lanes(load, x, lanesTop))
  block('New requests', outcomesOf(knocks).map(outcome => [OUTCOMES[outcome].name, OUTCOMES[outcome].colour]),
    KNOCKS, knocksTop => knockTicks(knocks, x, knocksTop))
  for (const path of ['/health', '/ready'] as const) {
    const own = probes.filter(sample => sample.path === path && sample.at <= exitAt)
    block(`Probe ${path}`, [], PROBE, probeTop => probeBars(own, exitAt, x, probeTop))
  }
  y -= GAP
  drawn.push(...axis(signalAt, start, end, x, y))
  return drawPicture({
    id: 'timeline', title: titleOf(recording), subtitle, description: describe(recording), height: y + 2 * LINE + 16
  }, drawn)
}

interface Span { phase: string, left: number, width: number }

function spans ({ phases: list, exitAt }: Recording, x: Scale): Span[] {
  const shown = list.filter(({ phase }) => phase !== 'closed')
  return shown.map(({ phase, at }, index) => {
    const left = index === 0 ? PLOT.left : x(at)
    return { phase, left, width: round(x(shown[index + 1]?.at ?? exitAt) - left) }
  })
}

/** The names of the phases. One without room for its name has it on its right, if it is the last. */
function phases (recording: Recording, x: Scale, stripTop: number): string[] {
  const all = spans(recording, x)
  const names = all.map(({ phase, left, width }, index) => {
    if (width >= phase.length * LETTER) return text(left + width / 2, stripTop + 18, phase, { anchor: 'middle' })
    return index === all.length - 1 ? text(left + width + 6, stripTop + 18, phase) : ''
  })
  return [...bands(recording, x, stripTop, STRIP), ...marks(recording, x, stripTop, STRIP), ...names.filter(name => name !== '')]
}

function bands (recording: Recording, x: Scale, y: number, height: number): string[] {
  return spans(recording, x).map(({ phase, left, width }) => box(left, y, width, height, TINTS[phase] ?? 'page'))
}

/** The signal and the exit. */
function marks ({ signalAt, exitAt }: Recording, x: Scale, y: number, height: number): string[] {
  return [signalAt, exitAt].map(at => line(`M${x(at)} ${round(y)}v${round(height)}`, 'ink', { width: 1.5, dashes: '4 3' }))
}

function axis (zero: number, start: number, end: number, x: Scale, y: number): string[] {
  const STEP = 500
  const drawn = [line(`M${PLOT.left} ${round(y)}H${PLOT.right}`, 'faint')]
  for (let at = zero + Math.ceil((start - zero) / STEP) * STEP; at <= end; at += STEP) {
    const isWhole = (at - zero) % 1000 === 0
    drawn.push(line(`M${x(at)} ${round(y)}v${isWhole ? 7 : 4}`, 'faint'))
    // A number at the very left would stand out of the plot.
    if (isWhole && x(at) >= PLOT.left + LETTER) drawn.push(text(x(at), y + LINE, String((at - zero) / 1000).replace('-', '−'), { anchor: 'middle', colour: 'faint' }))
  }
  return [...drawn, text((PLOT.left + PLOT.right) / 2, y + 2 * LINE, 'seconds since SIGTERM', { anchor: 'middle', colour: 'faint' })]
}

/** A bar for each request, from its start to its answer; those that ended first are on top. */
function lanes (load: readonly Call[], x: Scale, lanesTop: number): string[] {
  const endOf = (call: Call) => call.end ?? Infinity
  return load.toSorted((a, b) => endOf(a) - endOf(b)).map((call, lane) => {
    const left = x(call.start)
    const width = Math.max(1, Math.min(x(endOf(call)), PLOT.right) - left)
    const colour = call.outcome === 'answered' ? (call.method === 'POST' ? 'purple' : 'blue') : OUTCOMES.lost.colour
    return box(left, lanesTop + lane * LANE.height, width, LANE.bar, colour, 1.5)
  })
}

/** A tick for each new request when it was sent. Its height says how the request ended, as its colour does. */
function knockTicks (calls: readonly Call[], x: Scale, knocksTop: number): string[] {
  return calls.map(({ start, outcome = 'lost' }) => {
    const { height, colour } = OUTCOMES[outcome]
    return box(x(start) - 1.5, knocksTop + KNOCKS - height, 3, height, colour, 1)
  })
}

function outcomesOf (calls: readonly Call[]): Outcome[] {
  return (Object.keys(OUTCOMES) as Outcome[]).filter(outcome => count(calls, outcome) > 0)
}

/** What a probe answered, with its status where there is room for it. */
function probeBars (samples: Recording['probes'], exitAt: number, x: Scale, probeTop: number): string[] {
  const changes = samples.filter(({ status }, index) => index === 0 || samples[index - 1]?.status !== status)
  return changes.map(({ at, status }, index) => {
    const left = x(at)
    const width = Math.max(0, x(changes[index + 1]?.at ?? exitAt) - left)
    const colour = OUTCOMES[status === 200 ? 'answered' : status === 503 ? 'refused' : 'turned away'].colour
    const bar = box(left, probeTop, width, PROBE, colour)
    return status === undefined || width < 5 * LETTER ? bar : bar + text(left + 8, probeTop + 18, String(status), { colour: 'page', bold: true })
  })
}

/** From the right edge to the left, on the line of a heading. */
function legend (entries: Array<[name: string, colour: Colour]>, y: number): string[] {
  let right = WIDTH - MARGIN
  return entries.toReversed().flatMap(([name, colour]) => {
    const left = right - name.length * LETTER - 16
    const drawn = [box(left, y - 11, 11, 11, colour, 2), text(left + 16, y, name, { colour: 'faint' })]
    right = left - 14
    return drawn
  })
}

function titleOf (recording: Recording): string {
  const lost = losses(recording)
  return `SIGTERM with ${recording.inFlight} requests in flight: ${lost === 0 ? 'none lost' : `${lost} lost`}`
}

function summary (recording: Recording): string[] {
  const { load, knocks, exitAt, signalAt, exitCode, killed } = recording
  const exit = killed ? 'ended by force' : `exit code ${exitCode}`
  return [
    `${count(load, 'answered')} of ${load.length} requests answered, ${exit} after ${seconds(exitAt - signalAt)}`,
    `New requests: ${count(knocks, 'answered')} answered, ${count(knocks, 'refused')} rejected with 503`
  ]
}

/** The picture in words. */
function describe (recording: Recording): string {
  const { phases: list, signalAt } = recording
  const steps = list.filter(({ phase }) => phase !== 'running')
    .map(({ phase, at }) => `${phase} after ${seconds(at - signalAt)}`)
  return `${summary(recording).join('. ')}. Phases after SIGTERM: ${steps.join(', ')}. ` +
    'The picture shows a bar for each request in flight, a mark for each new request, and the status of the probes /health and /ready, over time.'
}

function losses ({ load, knocks }: Recording): number {
  return load.length - count(load, 'answered') + count(knocks, 'lost')
}

function seconds (milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}
