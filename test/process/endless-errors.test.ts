// Errors that are thrown again and again do not keep the process from ending.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { COVERED, exitInTime, fork, portOf, RawClient } from '../helpers.ts'

/** A process that fails endlessly does not fill its memory: one that kept each error would abort at this limit. */
const boundedFork = (t: Test, name: string, env: Record<string, string>): Program => fork(t, name, env, ['--max-old-space-size=160'])

t.test('repeated errors from microtask, while the log is being written, end the process in time', async t => {
  const program = boundedFork(t, 'endless-errors', { ...COVERED, KIND: 'microtask', LEVEL: 'error' })
  new RawClient(await portOf(program)).get('/start')
  t.equal(await exitInTime(t, program, 400), 1)
})

for (const kind of ['nextTick', 'setImmediate', 'setTimeout', 'microtask', 'rejection']) {
  t.test(`repeated errors from ${kind} end the process in time`, async t => {
    const program = boundedFork(t, 'endless-errors', { ...kind === 'nextTick' && COVERED, KIND: kind })
    new RawClient(await portOf(program)).get('/start')
    await program.log.line(/^started/)
    t.equal(await exitInTime(t, program, 400), 1)
  })

  for (const when of ['draining', 'a callback']) {
    t.test(`repeated errors from ${kind}, from ${when} on, end the process in time`, async t => {
      const program = boundedFork(t, 'endless-errors', { KIND: kind, WHEN: when })
      await portOf(program)
      t.equal(await exitInTime(t, program, 400, 'SIGTERM'), 1)
    })
  }
}

t.test('repeated errors from nextTick, after the report, do not keep a second signal from ending the process', async t => {
  const program = boundedFork(t, 'endless-errors', { KIND: 'nextTick', WHEN: 'after the report', SHUTDOWN_TIMEOUT: '60000' })
  await portOf(program)
  program.kill('SIGTERM')
  await program.log.line(/^reported/)
  const start = performance.now()
  program.kill('SIGINT')
  t.strictSame(await program.exit, { code: 1, signal: null })
  // Not at shutdownTimeout.
  t.ok(performance.now() - start < 30_000)
})
