// How the run went, in figures.

import type { Recording } from './recording.ts'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import Database from 'libsql'
import { count } from './recording.ts'

/** At most so many lost requests have a row of their own. */
const FEW = 8

export interface Verdict {
  rows: Array<{ name: string, value: string, isGood?: boolean }>
  isGood: boolean
}

/** Where the service has left what it leaves. */
export interface Remains {
  database: string
  metricsFile: string
}

export async function judge (recording: Recording, remains: Remains): Promise<Verdict> {
  const { load, knocks, inFlight, signalAt, exitAt, exitCode, killed, report } = recording
  const lost = [...load.filter(({ outcome }) => outcome !== 'answered'), ...knocks.filter(({ outcome }) => outcome === 'lost')]
  const writes = load.filter(({ method }) => method === 'POST')
  const found = countNotes(recording, remains.database)
  const metrics = await lastMetrics(remains.metricsFile)
  const since = knocks.filter(({ start }) => start >= signalAt)
  const rows: Verdict['rows'] = [
    { name: 'In flight at SIGTERM', value: String(inFlight) },
    { name: '  answered', value: `${count(load, 'answered')} of ${load.length}`, isGood: count(load, 'answered') === load.length },
    { name: 'New requests after SIGTERM', value: String(since.length) },
    { name: '  answered', value: String(count(since, 'answered')) },
    { name: '  rejected with 503', value: String(count(since, 'refused')) },
    { name: '  not connected: port closed', value: String(count(since, 'turned away')) },
    { name: 'Lost', value: String(lost.length), isGood: lost.length === 0 },
    { name: 'Writes found in the database', value: `${found} of ${writes.length}`, isGood: found === writes.length },
    {
      name: "The service's own report",
      value: report === undefined ? 'missing' : `${report.completed} completed, ${report.refused} rejected, ${report.cut.length} cut`,
      isGood: report?.cut.length === 0
    },
    { name: 'Last metrics', value: metrics, isGood: metrics !== 'missing' },
    { name: 'Exit code', value: killed ? 'none: ended by force' : String(exitCode), isGood: exitCode === 0 && !killed },
    { name: 'Time from SIGTERM to exit', value: `${((exitAt - signalAt) / 1000).toFixed(2)} s` },
    ...lost.slice(0, FEW).map(({ method, outcome, detail, start }) =>
      ({ name: `  lost: ${method} at ${((start - signalAt) / 1000).toFixed(2)} s`, value: `${outcome} ${detail.replace(/\s+/g, ' ')}`, isGood: false }))
  ]
  return { rows, isGood: rows.every(({ isGood }) => isGood !== false) }
}

/** How many of the notes that were answered with a 201 are in the database file, now that the service is gone. */
function countNotes ({ load }: Recording, path: string): number {
  if (!existsSync(path)) return 0
  const database = new Database(path, { readonly: true })
  try {
    const select = database.prepare('SELECT text FROM notes WHERE id = ?')
    return load.filter(({ note }) => note !== undefined &&
      (select.get(note.id) as { text: string } | undefined)?.text === note.text).length
  } finally {
    database.close()
  }
}

async function lastMetrics (path: string): Promise<string> {
  try {
    const text = await readFile(path, 'utf8')
    const [, seconds] = /^fastify_graceful_shutdown_elapsed_seconds (\S+)$/m.exec(text) ?? []
    return `shutdown ${Number(seconds).toFixed(2)} s`
  } catch {
    return 'missing'
  }
}
