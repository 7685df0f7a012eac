// The output in the terminal: a row every 100 ms, the service's log lines in between, and a table at the end.

import type { Call, ProbeSample, Recording } from './recording.ts'
import type { Verdict } from './verdict.ts'
import { styleText } from 'node:util'
import { count, underWay } from './recording.ts'

const ROW_EVERY = 100
/** Requests in flight for each cell of the bar. */
const CELL = 2
const BAR_WIDTH = 27

type Style = Parameters<typeof styleText>[0]

/** Colours only in a terminal, and not if NO_COLOR is set (no-color.org). */
const colours = process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === ''

function paint (style: Style, text: string): string {
  // validateStream: false, because the stream has been checked above; Node before 22.13 does not know the option.
  return colours ? styleText(style, text, { validateStream: false }) : text
}

const LABELS = { answered: 'answered', refused: '503', unconnected: 'connection refused', lost: 'lost' } as const

const PHASE_STYLES: Readonly<Record<string, Style>> = {
  running: 'green', delaying: 'yellow', draining: 'blue', closing: 'magenta', closed: 'gray'
}

export class Terminal {
  readonly #recording: Recording
  #ticker: NodeJS.Timeout | undefined
  #last = Date.now()

  constructor (recording: Recording) {
    this.#recording = recording
  }

  print (line: string): void {
    process.stdout.write(`${line}\n`)
  }

  /** A line of the service's log, or of the demo. */
  note (text: string): void {
    this.print(paint('dim', `         ${text}`))
  }

  heading (text: string): void {
    this.print(paint('bold', text))
  }

  start (): void {
    this.heading(`${'time'.padStart(6)}  ${'phase'.padEnd(9)} ${'requests in flight'.padEnd(BAR_WIDTH + 3)} health ready  new requests`)
    this.#last = Date.now()
    this.#ticker = setInterval(() => { this.#row() }, ROW_EVERY)
  }

  stop (): void {
    clearInterval(this.#ticker)
    this.#row()
  }

  #row (): void {
    const { phases, probes, knocks, signalAt } = this.#recording
    const now = Date.now()
    const phase = phases.at(-1)?.phase ?? 'running'
    const time = Number.isNaN(signalAt) ? '' : `+${((now - signalAt) / 1000).toFixed(1)}s`
    const inFlight = underWay(this.#recording, now)
    const since = knocks.filter(({ end }) => end !== undefined && end > this.#last)
    this.print([
      time.padStart(6),
      ` ${paint(PHASE_STYLES[phase] ?? 'gray', phase.padEnd(9))}`,
      paint('cyan', bar(inFlight)) + String(inFlight).padStart(2),
      ` ${light(probes, '/health')}   `,
      `${light(probes, '/ready')}  `,
      news(since)
    ].join(' ').trimEnd())
    this.#last = now
  }

  table (verdict: Verdict): void {
    const width = Math.max(...verdict.rows.map(({ name }) => name.length))
    this.print('')
    for (const { name, value, isGood } of verdict.rows) {
      const painted = isGood === undefined ? value : paint(isGood ? 'green' : 'red', value)
      this.print(`  ${name.padEnd(width)}  ${painted}`)
    }
    this.print('')
  }
}

function bar (inFlight: number): string {
  const cells = Math.min(inFlight / CELL, BAR_WIDTH)
  return ('█'.repeat(Math.floor(cells)) + (cells % 1 === 0 ? '' : '▌')).padEnd(BAR_WIDTH)
}

/** The last status of a probe. */
function light (probes: readonly ProbeSample[], path: string): string {
  const status = probes.findLast(sample => sample.path === path)?.status
  if (status === undefined) return paint('gray', ' – ')
  return paint(status === 200 ? 'green' : 'yellow', String(status))
}

/** How new requests ended. */
function news (knocks: readonly Call[]): string {
  const styles = { answered: 'green', refused: 'yellow', unconnected: 'gray', lost: 'red' } as const
  return (Object.keys(styles) as Array<keyof typeof styles>)
    .flatMap(outcome => count(knocks, outcome) === 0 ? [] : [paint(styles[outcome], `${count(knocks, outcome)} ${LABELS[outcome]}`)])
    .join(', ')
}
