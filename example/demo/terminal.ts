// The run in the terminal: one screen, drawn again and again. Elsewhere, lines without control codes. In the end, a table.

import type { Call, Outcome, ProbeSample, Recording } from './recording.ts'
import type { Verdict } from './verdict.ts'
import { styleText } from 'node:util'
import { count, underWay } from './recording.ts'

/** Milliseconds between two screens, and between two lines. */
const EVERY = { screen: 100, line: 500 }
/** With so many requests in flight, the bar is full. */
const FULL = 56
/** The columns of a bar in a line, and of a label on the screen. */
const BAR = 14
const LABEL = 20
const DEFAULT = { columns: 80, rows: 24 }

type Style = Parameters<typeof styleText>[0]
/** Pieces of a line. */
type Piece = string | [style: Style, text: string]

/** A terminal that understands control codes, of a user who has not asked for plain output (https://no-color.org). */
const isLive = process.stdout.isTTY && process.env['TERM'] !== 'dumb' && (process.env['NO_COLOR'] ?? '') === ''

const SCREEN = { enter: '\x1b[?1049h\x1b[?25l', leave: '\x1b[?25h\x1b[?1049l', top: '\x1b[H', clearLine: '\x1b[K', clearBelow: '\x1b[J' }

const PHASE_STYLES: Readonly<Record<string, Style>> = {
  running: 'green', delaying: 'yellow', draining: 'blue', closing: 'magenta', closed: 'gray'
}
const OUTCOMES: Record<Outcome, { style: Style, name: string }> = {
  answered: { style: 'green', name: 'answered' },
  refused: { style: 'yellow', name: 'rejected' },
  'turned away': { style: 'gray', name: 'not connected' },
  lost: { style: 'red', name: 'lost' }
}

export class Terminal {
  readonly #recording: Recording
  readonly #notes: string[] = []
  readonly #redraw = () => { this.#screen() }
  readonly #leave = () => { process.stdout.write(SCREEN.leave) }
  #ticker: NodeJS.Timeout | undefined
  #last = Date.now()

  constructor (recording: Recording) {
    this.#recording = recording
  }

  /** What the service, or the demo, has to say. */
  note (text: string): void {
    this.#notes.push(text)
    // On the screen, it comes with the next drawing.
    if (!isLive || this.#ticker === undefined) this.#print([['dim', `        ${text}`]])
  }

  heading (text: string): void {
    this.#print([['bold', text]])
  }

  start (): void {
    if (isLive) {
      process.stdout.write(SCREEN.enter)
      // However the demo ends, the user's screen comes back.
      process.on('exit', this.#leave)
      process.stdout.on('resize', this.#redraw)
      this.#ticker = setInterval(this.#redraw, EVERY.screen)
      return
    }
    this.heading(`${'time'.padStart(6)}  ${'phase'.padEnd(9)} ${'in flight'.padEnd(BAR + 3)} health ready  new requests`)
    this.#last = Date.now()
    this.#ticker = setInterval(() => { this.#line() }, EVERY.line)
  }

  stop (): void {
    clearInterval(this.#ticker)
    if (!isLive) {
      this.#line()
      return
    }
    process.stdout.off('resize', this.#redraw)
    process.off('exit', this.#leave)
    this.#leave()
  }

  table (verdict: Verdict): void {
    const width = Math.max(...verdict.rows.map(({ name }) => name.length))
    this.#print([])
    for (const { name, value, isGood } of verdict.rows) {
      this.#print([`  ${name.padEnd(width)}  `, isGood === undefined ? value : [isGood ? 'green' : 'red', value]])
    }
    this.#print([])
  }

  #print (line: Piece[]): void {
    process.stdout.write(`${paint(line, isLive && process.stdout.columns > 0 ? process.stdout.columns : Infinity)}\n`)
  }

  /** The state now, and as much of the log as there is room for. */
  #screen (): void {
    // 0 if the terminal does not know its size.
    const columns = process.stdout.columns || DEFAULT.columns
    const rows = process.stdout.rows || DEFAULT.rows
    const { probes, knocks } = this.#recording
    const { phase, time, inFlight } = this.#now()
    const row = (label: string, ...pieces: Piece[]): Piece[] => [`  ${label.padEnd(LABEL)}`, ...pieces]
    const state = [
      [['bold', 'A shutdown under load']] satisfies Piece[],
      [],
      row('Since SIGTERM', time),
      row('Phase', [PHASE_STYLES[phase] ?? 'gray', phase]),
      row('Requests in flight', ['cyan', bar(inFlight, Math.min(FULL, columns - LABEL - 8))], String(inFlight).padStart(3)),
      row('Probe /health', status(probes, '/health')),
      row('Probe /ready', status(probes, '/ready')),
      row('New requests', ...news(knocks)),
      []
    ]
    const notes = this.#notes.slice(-Math.max(1, rows - state.length)).map((note): Piece[] => [['dim', `  ${note}`]])
    const lines = [...state, ...notes].slice(0, rows).map(line => paint(line, columns) + SCREEN.clearLine)
    process.stdout.write(SCREEN.top + lines.join('\r\n') + SCREEN.clearBelow)
  }

  #line (): void {
    const { probes, knocks } = this.#recording
    const { phase, time, inFlight } = this.#now()
    const since = knocks.filter(({ end }) => end !== undefined && end > this.#last)
    const columns = [
      time.padStart(6), ` ${phase.padEnd(9)}`, bar(inFlight, BAR) + String(inFlight).padStart(3),
      `${textOf(status(probes, '/health'))}   `, `${textOf(status(probes, '/ready'))}  `, news(since).map(textOf).join('')
    ]
    this.#print([columns.join(' ').trimEnd()])
    this.#last = Date.now()
  }

  #now (): { phase: string, time: string, inFlight: number } {
    const now = Date.now()
    const { phases, signalAt } = this.#recording
    return {
      phase: phases.at(-1)?.phase ?? '',
      time: Number.isNaN(signalAt) ? '' : `+${((now - signalAt) / 1000).toFixed(1)}s`,
      inFlight: underWay(this.#recording, now)
    }
  }
}

/** Without what does not fit into the columns. */
function paint (line: Piece[], columns: number): string {
  let left = columns
  return line.map(piece => {
    const text = textOf(piece).slice(0, left)
    left -= text.length
    // validateStream: false, because the stream has been looked at; Node before 22.13 does not know the option.
    return isLive && typeof piece !== 'string' ? styleText(piece[0], text, { validateStream: false }) : text
  }).join('')
}

function textOf (piece: Piece): string {
  return typeof piece === 'string' ? piece : piece[1]
}

function bar (inFlight: number, width: number): string {
  const cells = Math.max(0, Math.min(inFlight / FULL, 1) * width)
  return ('█'.repeat(Math.floor(cells)) + (cells % 1 >= 0.5 ? '▌' : '')).padEnd(width)
}

/** The last answer of a probe. */
function status (probes: readonly ProbeSample[], path: string): Piece {
  const last = probes.findLast(sample => sample.path === path)?.status
  return last === undefined ? ['gray', ' – '] : [last === 200 ? 'green' : 'yellow', String(last)]
}

/** How new requests ended. */
function news (knocks: readonly Call[]): Piece[] {
  const outcomes = (Object.keys(OUTCOMES) as Outcome[]).filter(outcome => count(knocks, outcome) > 0)
  return outcomes.flatMap((outcome, index): Piece[] => {
    const { style, name } = OUTCOMES[outcome]
    return [index === 0 ? '' : ', ', [style, `${count(knocks, outcome)} ${name}`]]
  })
}
