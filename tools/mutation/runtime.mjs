// Loaded by each instrumented file. Stryker's own header keeps the coverage in memory; this one writes it at once, because tests kill
// the programs that they start.

import { openSync, writeSync } from 'node:fs'

const { MUTANT, MUTATION_COVERAGE, MUTATION_TEST = '' } = process.env
const [activeFile, activeId] = MUTANT?.split(':') ?? []

// Opened once: a test may use up all file descriptors.
const coverage = MUTATION_COVERAGE === undefined ? undefined : openSync(MUTATION_COVERAGE, 'a')

// The bundles of one process, if there are several, share it with observe.mjs.
const current = globalThis[Symbol.for('mutation')] ??= { test: MUTATION_TEST }

/** The functions that Stryker's instrumenter calls, for one file. */
export function mutantsOf (file) {
  const active = file === activeFile ? activeId : undefined
  if (coverage === undefined) return { isActive: id => id === active, cover () {} }
  const seen = new Map()
  const cover = (...ids) => {
    const { test } = current
    if (!seen.has(test)) seen.set(test, new Set())
    const known = seen.get(test)
    const fresh = ids.filter(id => !known.has(id))
    if (fresh.length === 0) return
    for (const id of fresh) known.add(id)
    writeSync(coverage, `${JSON.stringify([test, file, fresh])}\n`)
  }
  return { isActive: id => id === active, cover }
}
