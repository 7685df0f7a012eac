// What the plugin adds to the start of an application: to import it, once Fastify and its other dependencies are loaded, and to
// register it. Each figure is the median of fresh processes, which alternate with processes that register an empty plugin, and with
// processes that register a plugin with the same hooks, decorators and routes, which do nothing: that is Fastify's own work.

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

/** The name of each subject. */
const LOADED = { ours: OURS, frame: 'frame', empty: 'empty' }

export type Loading = Record<keyof typeof LOADED, Start>

export function measureLoading (directory: string, runs: number): Loading {
  const rounds = Array.from({ length: runs }, () => mapSubjects(subject => start(directory, subject)))
  return mapSubjects((_subject, name) => medianStart(rounds.map(round => round[name])))
}

function mapSubjects (map: (subject: string, name: keyof Loading) => Start): Loading {
  const { ours, frame, empty } = LOADED
  return { ours: map(ours, 'ours'), frame: map(frame, 'frame'), empty: map(empty, 'empty') }
}

function start (directory: string, subject: string): Start {
  return JSON.parse(execFileSync(process.execPath, ['--expose-gc', join(directory, 'bench/start.js')], {
    env: { ...process.env, NODE_OPTIONS: '', SUBJECT: subject }, encoding: 'utf8'
  })) as Start
}

function medianStart (starts: readonly Start[]): Start {
  return { import: median(starts.map(({ import: time }) => time)), register: median(starts.map(({ register }) => register)) }
}
