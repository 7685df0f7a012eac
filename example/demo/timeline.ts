// The run as a picture: an SVG without scripts or fonts, with its own background.

import type { Call, Outcome, Recording } from './recording.ts'
import { count } from './recording.ts'

const WIDTH = 900
const PLOT = { left: 112, right: WIDTH - 66, top: 96 }
const LANE = { height: 6.5, bar: 4.5 }
const STRIP = 24
const GAP = 12
const KNOCKS = 26
const PROBE = 14

const INK = '#1f2733'
const FAINT = '#5b6675'
const COLOURS = {
  read: '#3f7fd6',
  write: '#7b55c7',
  answered: '#1f8a53',
  refused: '#e08a1e',
  unconnected: '#9aa4b1',
  lost: '#d1242f'
} as const
const PHASES: Readonly<Record<string, { tint: string, strip: string }>> = {
  running: { tint: '#f1f9f4', strip: '#cdebd9' },
  delaying: { tint: '#fff8e6', strip: '#fbe5b0' },
  draining: { tint: '#eef4fd', strip: '#cfe0f8' },
  closing: { tint: '#f5eefb', strip: '#dcc8ee' }
}
/** In a phase narrower than this, the name does not fit. */
const ROOM_FOR_NAME = 60

export function drawTimeline (recording: Recording): string {
  const { load, signalAt, exitAt } = recording
  const start = Math.min(...load.map(call => call.start)) - 60
  const end = exitAt + 60
  const x = (at: number) => round(PLOT.left + (at - start) / (end - start) * (PLOT.right - PLOT.left))

  const lanesTop = PLOT.top + STRIP + GAP
  const knocksTop = lanesTop + load.length * LANE.height + GAP
  const probesTop = knocksTop + KNOCKS + GAP
  const bottom = probesTop + 2 * PROBE + 4 + GAP
  const height = bottom + 76

  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`,
    `  font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="12" fill="${INK}"`,
    '  role="img" aria-labelledby="title desc">',
    `<title id="title">${escape(titleOf(recording))}</title>`,
    `<desc id="desc">${escape(describe(recording))}</desc>`,
    `<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8" fill="#ffffff" stroke="#d5dbe3"/>`,
    text(24, 36, titleOf(recording), 'font-size="18" font-weight="600"'),
    text(24, 58, summary(recording), `font-size="13" fill="${FAINT}"`),
    ...phases(recording, x, bottom),
    ...axis(signalAt, start, end, x, bottom),
    ...label(lanesTop + 10, `${load.length} requests`, 'in flight'),
    ...lanes(load, x, lanesTop),
    ...label(knocksTop + KNOCKS / 2 + 4, 'new requests'),
    ...knocks(recording, x, knocksTop),
    ...probes(recording, '/health', x, probesTop),
    ...probes(recording, '/ready', x, probesTop + PROBE + 4),
    ...marker(x(signalAt), 'SIGTERM', bottom, INK),
    ...marker(x(exitAt), `exit ${recording.killed ? 'by SIGKILL' : recording.exitCode}`, bottom, INK),
    ...legend(recording, bottom + 56),
    '</svg>',
    ''
  ].join('\n')
}

type Scale = (at: number) => number

/** A band for each phase, with its name at the top. */
function phases ({ phases: list, exitAt }: Recording, x: Scale, bottom: number): string[] {
  const shown = list.filter(({ phase }) => phase !== 'closed')
  return shown.flatMap(({ phase, at }, index) => {
    const left = index === 0 ? PLOT.left : x(at)
    const right = x(shown[index + 1]?.at ?? exitAt)
    const { tint, strip } = PHASES[phase] ?? { tint: '#ffffff', strip: '#eeeeee' }
    const width = round(right - left)
    const name = width >= ROOM_FOR_NAME
      ? text(left + width / 2, PLOT.top + 16, phase, 'text-anchor="middle" font-weight="600"')
      : text(right + 6, PLOT.top + 16, phase, 'font-weight="600"')
    return [
      `<rect x="${left}" y="${PLOT.top}" width="${width}" height="${bottom - PLOT.top}" fill="${tint}"/>`,
      `<rect x="${left}" y="${PLOT.top}" width="${width}" height="${STRIP}" fill="${strip}"/>`,
      name
    ]
  })
}

/** Seconds, counted from the signal. */
function axis (zero: number, start: number, end: number, x: Scale, bottom: number): string[] {
  const STEP = 500
  const lines = [`<path d="M${PLOT.left} ${bottom}H${PLOT.right}" stroke="${FAINT}"/>`]
  for (let at = zero + Math.ceil((start - zero) / STEP) * STEP; at <= end; at += STEP) {
    const isWhole = (at - zero) % 1000 === 0
    lines.push(`<path d="M${x(at)} ${bottom}v${isWhole ? 6 : 4}" stroke="${FAINT}"/>`)
    if (isWhole) lines.push(text(x(at), bottom + 19, String((at - zero) / 1000), `text-anchor="middle" fill="${FAINT}"`))
  }
  lines.push(text(PLOT.right + 6, bottom + 4, 'seconds', `fill="${FAINT}"`))
  return lines
}

/** A bar for each request, from its start to its end; those that ended first are at the top. */
function lanes (load: readonly Call[], x: Scale, top: number): string[] {
  const endOf = (call: Call) => call.end ?? Infinity
  return load.toSorted((a, b) => endOf(a) - endOf(b)).map((call, lane) => {
    const left = x(call.start)
    const width = round(Math.max(1, x(Math.min(endOf(call), Number.MAX_SAFE_INTEGER)) - left))
    const fill = call.outcome === 'answered' ? COLOURS[call.method === 'POST' ? 'write' : 'read'] : COLOURS.lost
    return `<rect x="${left}" y="${round(top + lane * LANE.height)}" width="${width}" height="${LANE.bar}" rx="2" fill="${fill}"/>`
  })
}

/** A tick for each new request at the time it was sent; its height and colour show how it ended. */
function knocks ({ knocks: calls }: Recording, x: Scale, top: number): string[] {
  const heights: Record<Outcome, number> = { answered: KNOCKS, refused: 16, unconnected: 8, lost: KNOCKS }
  return calls.map(({ start, outcome = 'lost' }) => {
    const height = heights[outcome]
    return `<rect x="${round(x(start) - 1.5)}" y="${top + KNOCKS - height}" width="3" height="${height}" rx="1" fill="${COLOURS[outcome]}"/>`
  })
}

/** The status of a probe over time, by colour. */
function probes ({ probes: samples, exitAt }: Recording, path: string, x: Scale, top: number): string[] {
  const own = samples.filter(sample => sample.path === path && sample.at <= exitAt)
  const changes = own.filter(({ status }, index) => index === 0 || own[index - 1]?.status !== status)
  const bars = changes.map(({ at, status }, index) => {
    const left = x(at)
    const width = round(Math.max(0, x(changes[index + 1]?.at ?? exitAt) - left))
    const fill = status === 200 ? COLOURS.answered : status === 503 ? COLOURS.refused : COLOURS.unconnected
    const bar = `<rect x="${left}" y="${top}" width="${width}" height="${PROBE}" fill="${fill}"/>`
    if (status === undefined || width < ROOM_FOR_NAME) return bar
    return bar + text(left + 8, top + 11, String(status), `font-size="11" font-weight="600" fill="${status === 200 ? '#ffffff' : INK}"`)
  })
  return [...label(top + 11, path), ...bars]
}

function marker (x: number, name: string, bottom: number, colour: string): string[] {
  return [
    `<path d="M${x} ${PLOT.top - 8}V${bottom}" stroke="${colour}" stroke-width="1.5" stroke-dasharray="4 3"/>`,
    text(x, PLOT.top - 13, name, 'text-anchor="middle" font-weight="600"')
  ]
}

function legend (recording: Recording, y: number): string[] {
  const entries: Array<[colour: string, name: string]> = [
    [COLOURS.read, 'reads'],
    [COLOURS.write, 'writes to the database'],
    [COLOURS.answered, 'answered, probe 200'],
    [COLOURS.refused, 'refused, probe 503'],
    [COLOURS.unconnected, 'connection refused']
  ]
  if (losses(recording) > 0) entries.push([COLOURS.lost, 'lost'])
  // Text cannot be measured here; a letter is about 6.3 pixels wide at this size.
  let x = PLOT.left
  return entries.flatMap(([colour, name]) => {
    const left = x
    x += 16 + name.length * 6.3 + 22
    return [
      `<rect x="${round(left)}" y="${y - 9}" width="10" height="10" rx="2" fill="${colour}"/>`,
      text(left + 16, y, name, `fill="${FAINT}"`)
    ]
  })
}

/** The label to the left of a lane. */
function label (y: number, ...lines: string[]): string[] {
  return lines.map((line, index) => text(PLOT.left - 10, y + index * 15, line, `text-anchor="end" fill="${FAINT}"`))
}

function titleOf (recording: Recording): string {
  const lost = losses(recording)
  return `SIGTERM with ${recording.inFlight} requests in flight: ${lost === 0 ? 'none is lost' : `${lost} lost`}`
}

function summary (recording: Recording): string {
  const { load, knocks: calls, exitAt, signalAt, exitCode } = recording
  return [
    `${count(load, 'answered')} of ${load.length} answered`,
    `new requests: ${count(calls, 'answered')} answered, ${count(calls, 'refused')} refused with 503`,
    `exit code ${exitCode} after ${seconds(exitAt - signalAt)}`
  ].join('  ·  ')
}

/** The picture in words. */
function describe (recording: Recording): string {
  const { phases: list, signalAt } = recording
  const steps = list.filter(({ phase }) => phase !== 'running')
    .map(({ phase, at }) => `${phase} from ${seconds(at - signalAt)}`)
  return `${summary(recording)}. After the signal: ${steps.join(', ')}. ` +
    'A bar for each request in flight, a tick for each new request, and the status of the probes /health and /ready over time.'
}

function losses ({ load, knocks: calls }: Recording): number {
  return load.length - count(load, 'answered') + count(calls, 'lost')
}

function seconds (milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}

function text (x: number, y: number, content: string, attributes: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${attributes}>${escape(content)}</text>`
}

function escape (content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

function round (value: number): number {
  return Math.round(value * 10) / 10
}
