// The differences between two runs of a file: a line for each, which is the same in each run.

import type { InstanceEvent } from './instances.ts'
import type { FileResult } from './program.ts'

/** Closing is slow if it takes longer than without the plugin by this many milliseconds. */
const SLOWER = 500

const UNNOTICED = 'instances without the plugin'
/** One occurrence is enough: neither a busy machine nor a test causes these. */
export const NEVER_BY_CHANCE = new RegExp(`^(?:cut though answered: |still counts: |not registered: |${UNNOTICED}$)`)

/** The differences, each with details for a person to read. */
export function compare (untouched: FileResult, withPlugin: FileResult): Map<string, string> {
  const differences = new Map<string, string>()
  for (const [name, { passed }] of untouched.tests) {
    if (!passed) continue
    const other = withPlugin.tests.get(name)
    if (other === undefined) differences.set(`missing: ${name}`, '')
    else if (!other.passed && !other.onlyWithin) differences.set(`fails: ${name}`, other.error)
  }
  const usual = new Set(untouched.instances.map(describe))
  for (const event of withPlugin.instances) {
    const { kind, at, time } = event
    if (kind === 'made' || kind === 'registered') continue
    if (time === undefined ? usual.has(describe(event)) : time <= SLOWER + slowest(untouched, at)) continue
    differences.set(describe(event), time === undefined ? '' : `${Math.round(time)} ms`)
  }
  const { instances, registered, rejected } = count(withPlugin)
  if (instances > registered + rejected) differences.set(UNNOTICED, `${instances} made, ${registered} registered, ${rejected} rejected`)
  for (const warning of withPlugin.warnings) {
    if (!untouched.warnings.has(warning)) differences.set(`warns: ${warning}`, '')
  }
  return differences
}

/** How many instances were made, and on how many of them the plugin was registered, or rejected its registration. */
export function count (result: FileResult): { instances: number, registered: number, rejected: number } {
  const number = (wanted: InstanceEvent['kind']) => result.instances.filter(({ kind }) => kind === wanted).length
  return { instances: number('made'), registered: number('registered'), rejected: number('not registered') }
}

function describe ({ kind, at, what }: InstanceEvent): string {
  return `${kind}: ${at}${what === undefined ? '' : ` ${what}`}`
}

/** Milliseconds of the slowest close of the instances created at a place; 0 if all were quick. */
function slowest ({ instances }: FileResult, place: string): number {
  return Math.max(0, ...instances.filter(({ at }) => at === place).map(({ time = 0 }) => time))
}
