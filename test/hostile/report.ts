// What a run has shown: the bounds, and the table.

import type { Attack } from './attacks.ts'
import type { Counts } from './crowd.ts'
import type { Answer } from './honest.ts'
import type { Seen } from './service.ts'
import type { Exit, Report } from './target.ts'
import { SETTLE_TIMEOUT, QUIET } from '../../lib/times.ts'
import { ATTACKS } from './attacks.ts'
import { OPTIONS } from './target.ts'

export interface Run {
  exit: Exit
  report: Report
  stderr: string
  seen: Seen
  counts: Counts
  honest: Answer[]
  /** Peaks of resident memory, in MiB. */
  memory: { idle: number, running: number, shutdown: number }
  /** Milliseconds of the shutdown for which the service has waited for a processor, because others used them. */
  waited: number
}

/** What is kept of a run, for the table. */
export interface Result {
  attack: string
  connections: number
  open: number
  sent: number
  code: number | null
  time: number
  limit: number
  /** Milliseconds by which the event loop was late, at most. */
  late: number
  /** Milliseconds for which the shutdown has waited for a processor. */
  waited: number
  cut: number
  /** MiB beyond what the idle service uses. */
  running: number
  shutdown: number
  /** The same for bare Fastify, running. */
  bare?: { memory: number, late: number }
  honest: { answered: number, rejected: number, closed: number, refused: number }
}

/** Milliseconds by which the exit may be late. */
const LATE = 1_000
/** Timers of which each may be late by a turn of the event loop: of the delay, the drain, and the waits for late and for slow clients. */
const TIMERS = 4

/**
 * Milliseconds from SIGTERM to the exit, at most: the steps that take time, of which the drain does only if the attack holds requests.
 * No timer runs within a turn of the event loop, so that turns that take long, also without the plugin, make them longer, but not beyond
 * shutdownTimeout and one turn.
 */
function limitOf ({ holds = false }: Attack, { seen: { late = 0 }, waited }: Run): number {
  const steps = OPTIONS.shutdownDelay + (holds ? OPTIONS.drainTimeout : 0) + QUIET.most + 2 * SETTLE_TIMEOUT.most
  return Math.round(Math.min(steps + TIMERS * late, OPTIONS.shutdownTimeout + late) + waited + LATE)
}

/** An answer that is what the service promises: the whole response, or the whole rejection. */
const isServed = ({ status, body }: Answer): boolean => status === 200 && body === 'served'
const isRejected = ({ status, body = '' }: Answer): boolean => status === 503 && /^\{.*"code":"FST_ERR_GRACEFUL_SHUTTING_DOWN".*\}$/.test(body)

function judge ({ honest, seen: { phases = {} } }: Run): { honest: Result['honest'], lost: Answer[] } {
  const { closing = Infinity } = phases
  // A client may send a request again if its stream was refused: it was not processed.
  const isRefused = ({ failure = '' }: Answer): boolean => /ECONNREFUSED|NGHTTP2_REFUSED_STREAM/.test(failure)
  const failed = honest.filter(answer => !isServed(answer) && !isRejected(answer) && !isRefused(answer))
  return {
    honest: {
      answered: honest.filter(isServed).length,
      rejected: honest.filter(isRejected).length,
      closed: failed.filter(({ ended }) => ended >= closing).length,
      refused: honest.filter(isRefused).length
    },
    lost: failed.filter(({ ended }) => ended < closing)
  }
}

/** Which bounds a run has broken. */
export function faultsOf (attack: Attack, run: Run): string[] {
  const { exit, report, stderr, seen, counts, honest, memory } = run
  const { admitted = {}, phases = {}, smuggled } = seen
  const { draining = 0 } = phases
  const limit = limitOf(attack, run)
  const { lost } = judge(run)
  const late = honest.filter(answer => answer.sent > draining && isServed(answer)).length
  const total = Object.values(admitted).reduce((sum, count) => sum + count, 0)
  const served = (counts.answers['200'] ?? 0) + honest.filter(isServed).length
  const faults: Array<[isBroken: boolean, what: string]> = [
    [exit.signal !== null, `killed by ${exit.signal}`],
    [exit.time > limit, `the exit took ${Math.round(exit.time)} ms, more than ${limit}`],
    [exit.code !== (report.cut > 0 ? 1 : 0), `exit code ${exit.code}, with ${report.cut} requests cut`],
    [report.cut > 0 && attack.holds !== true, `${report.cut} requests were cut`],
    [report.errors.length > 0, `errors in the report: ${report.errors.join(', ')}`],
    [stderr !== '', `stderr: ${stderr.slice(0, 500)}`],
    [Object.keys(admitted).some(phase => phase !== 'running' && phase !== 'delaying'), `admitted: ${JSON.stringify(admitted)}`],
    [smuggled !== 0, `${smuggled} hidden requests were served`],
    [late > 0, `${late} requests sent after the gate had shut were served`],
    [attack.isProbe !== true && served > total, `${served} answers with 200 to ${total} requests`],
    [lost.length > 0, `${lost.length} honest requests were lost: ${JSON.stringify(lost.slice(0, 3))}`],
    [!honest.some(isServed), 'no honest request was served'],
    ...(['running', 'shutdown'] as const).map((when): [boolean, string] => {
      const used = Math.round(memory[when] - memory.idle)
      return [used > attack.memory, `${when}: ${used} MiB more than idle, and ${attack.memory} are allowed`]
    })
  ]
  return faults.filter(([isBroken]) => isBroken).map(([, what]) => what)
}

export function toResult (name: string, attack: Attack, run: Run): Result {
  const { exit, report, seen, counts, memory, waited } = run
  return {
    attack: name,
    connections: counts.connections,
    open: counts.open,
    sent: counts.sent,
    code: exit.code,
    time: Math.round(exit.time),
    limit: limitOf(attack, run),
    late: seen.late ?? 0,
    waited: Math.round(waited),
    cut: report.cut,
    running: Math.round(memory.running - memory.idle),
    shutdown: Math.round(memory.shutdown - memory.idle),
    honest: judge(run).honest
  }
}

const HEAD = [
  'attack', 'the clients', 'open at once', 'exit after', 'of which waiting for CPU', 'limit', 'exit code', 'memory: running',
  'memory: bare Fastify', 'memory: shutting down', 'event loop late', 'event loop late: bare Fastify', 'other clients: served', '503', 'not accepted'
]

/** In Markdown. */
export function table (results: readonly Result[]): string {
  const rows = results.map(({ attack, open, sent, code, time, waited, limit, late, cut, running, bare, shutdown, honest }) => {
    const { what = '', unit } = ATTACKS[attack] ?? {}
    return [
      attack, unit === undefined ? what : `${what}: ${format(sent)} ${unit}`, format(open), seconds(time), seconds(waited), seconds(limit),
      cut === 0 ? code : `${code}: ${format(cut)} cut`, `${running} MiB`, bare === undefined ? '' : `${bare.memory} MiB`, `${shutdown} MiB`,
      seconds(late), bare === undefined ? '' : seconds(bare.late),
      format(honest.answered), format(honest.rejected), format(honest.closed + honest.refused)
    ]
  })
  return [HEAD, HEAD.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const START_OF_TABLE = '<!-- hostile clients -->\n'
const END_OF_TABLE = '\n<!-- /hostile clients -->'

/** The page with these results in its table. */
export function withTable (page: string, results: readonly Result[]): string {
  const start = page.indexOf(START_OF_TABLE) + START_OF_TABLE.length
  return page.slice(0, start) + table(results) + page.slice(page.indexOf(END_OF_TABLE, start))
}

function seconds (milliseconds: number): string {
  return `${(milliseconds / 1_000).toFixed(1)} s`
}

function format (count: number): string {
  return count.toLocaleString('en-US')
}
