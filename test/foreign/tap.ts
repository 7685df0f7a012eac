// Parses the output of the TAP reporter of node:test.

/** How one test ended. */
export interface TestResult {
  passed: boolean
  /** Whether it failed only because of a subtest. */
  onlyWithin: boolean
  /** The error of the failed test. */
  error: string
}

const STARTED = /^( *)# Subtest: (.*)$/
const ENDED = /^( *)(not )?ok \d+ - (.*?)(?: # (?:SKIP|TODO).*)?$/
const INDENTATION = 4

/** Tests by their full names, which include the names of their parents. Repeated names get a number. */
export function parseTap (text: string): Map<string, TestResult> {
  const results = new Map<string, TestResult>()
  const path: string[] = []
  const lines = text.split('\n')
  for (let index = 0; index < lines.length; index++) {
    const line = lines[index] as string
    const [, outer = '', started] = STARTED.exec(line) ?? []
    if (started !== undefined) path.splice(outer.length / INDENTATION, Infinity, started)
    const [, indentation = '', not, ended] = ENDED.exec(line) ?? []
    if (ended === undefined) continue

    // The YAML block may contain anything.
    const end = lines.indexOf(`${indentation}  ...`, index)
    const details = end === -1 ? '' : lines.slice(index + 1, end).join('\n')
    if (end !== -1) index = end
    const name = [...path.slice(0, indentation.length / INDENTATION), ended].join(' > ')
    const onlyWithin = details.includes("failureType: 'subtestsFailed'")
    results.set(unused(name, results), { passed: not === undefined, onlyWithin, error: not === undefined ? '' : details })
  }
  return results
}

function unused (name: string, results: ReadonlyMap<string, TestResult>): string {
  let unusedName = name
  for (let number = 2; results.has(unusedName); number++) unusedName = `${name} (${number})`
  return unusedName
}
