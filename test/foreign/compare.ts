// The differences between two runs of a file: a line for each, which is the same in each run.

import type { FileResult } from './program.ts'

/** Closing is slow if it takes longer than without the plugin by this many milliseconds. */
const SLOWER = 500

/** The differences, each with details for a person to read. */
export function compare (untouched: FileResult, withPlugin: FileResult): Map<string, string> {
  const differences = new Map<string, string>()
  for (const [name, { passed }] of untouched.tests) {
    if (!passed) continue
    const other = withPlugin.tests.get(name)
    if (other === undefined) differences.set(`missing: ${name}`, '')
    else if (!other.passed && !other.onlyWithin) differences.set(`fails: ${name}`, other.error)
  }
  for (const { kind, at, what, time } of withPlugin.instances) {
    if (time === undefined) {
      differences.set(`${kind}: ${at} ${what}`, '')
    } else if (time > SLOWER + slowest(untouched, at)) {
      differences.set(`${kind}: ${at}`, `${Math.round(time)} ms`)
    }
  }
  for (const warning of withPlugin.warnings) {
    if (!untouched.warnings.has(warning)) differences.set(`warns: ${warning}`, '')
  }
  return differences
}

/** Milliseconds of the slowest close of the instances created at a place; 0 if all were quick. */
function slowest ({ instances }: FileResult, place: string): number {
  return Math.max(0, ...instances.filter(({ at }) => at === place).map(({ time = 0 }) => time))
}
