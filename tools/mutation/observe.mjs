// Preloaded into the process of a test file: tells runtime.mjs, in this process and in those that it starts, which test runs.

import t from 'tap'

const current = globalThis[Symbol.for('mutation')] ??= { test: '' }

t.beforeEach(test => {
  // Tests that run at the same time are not told apart; what they run counts for all tests of the file.
  if (test.parent !== t || t.jobs > 1) return
  current.test = process.env.MUTATION_TEST = test.name
})
