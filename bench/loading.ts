// What the plugin adds to the start of an application: to import it, once Fastify and its other dependencies are loaded, and to
// register it. Each figure is the median of fresh processes, which alternate with processes that register an empty plugin.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { median } from './numbers.ts'
import { OURS } from './subjects.ts'

/** Milliseconds of processor time, which other processes do not prolong as much as the time on the clock. */
export interface Start {
  import: number
  /** To register it and a route of the application, until the instance is ready. */
  register: number
}

export interface Loading {
  ours: Start
  empty: Start
}

export function measureLoading (directory: string, runs: number): Loading {
  const starts: Record<keyof Loading, Start[]> = { ours: [], empty: [] }
  for (let run = 0; run < runs; run++) {
    starts.ours.push(start(directory, OURS))
    starts.empty.push(start(directory, ''))
  }
  return { ours: medianStart(starts.ours), empty: medianStart(starts.empty) }
}

function start (directory: string, subject: string): Start {
  return JSON.parse(execFileSync(process.execPath, ['--expose-gc', join(directory, 'bench/start.js')], {
    env: { ...process.env, NODE_OPTIONS: '', SUBJECT: subject }, encoding: 'utf8'
  })) as Start
}

function medianStart (starts: readonly Start[]): Start {
  return { import: median(starts.map(({ import: time }) => time)), register: median(starts.map(({ register }) => register)) }
}
