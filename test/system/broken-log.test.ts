// A log that fails: no request is lost, every callback runs, and the process ends.

import { existsSync } from 'node:fs'
import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { exitInTime, fork, portOf, RawClient } from '../helpers.ts'

/** A process that fails endlessly does not fill its memory: one that kept each error would abort at this limit. */
const boundedFork = (t: Test, name: string, env: Record<string, string>): Program => fork(t, name, env, ['--max-old-space-size=160'])

const faults = [
  'throws', 'rejects', 'emits EPIPE', 'takes long for each line', 'throws in every method', 'is destroyed', 'is destroyed, in sync', 'is ended',
  'loses its worker', 'ends its worker', 'has no reader: stdout', 'has no reader: default',
  // Each write fails, and pino tries to write the rest when the process exits.
  ...existsSync('/dev/full') ? ['is full', 'is full, in sync'] : []
]

/** Those that cause no error: pino's own destination ignores EPIPE. All others cause an uncaught one, from a tick or a line of Fastify. */
const harmless = new Set(['takes long for each line', 'has no reader: default'])

for (const fault of faults) {
  for (const when of ['before the signal', 'in a callback']) {
    const hasNoReader = fault.startsWith('has no reader')
    if (hasNoReader && when === 'in a callback') continue
    t.test(`a log that ${fault}, ${when}: the request in flight is answered, every callback runs, and the process ends`, async t => {
      const program = boundedFork(t, 'broken-log', { FAULT: fault, WHEN: when })
      const port = await portOf(program)
      const client = new RawClient(port).get('/held')
      await program.log.line(/^held is in/)
      if (hasNoReader) program.stopReading()
      else if (when === 'before the signal') await new RawClient(port).get('/break').until(/broken/)
      t.equal(await exitInTime(t, program, 2_000, 'SIGTERM'), harmless.has(fault) ? 0 : 1)
      await client.closed
      t.match(client.text, /200 OK[^]*held$/)
      t.strictSame(program.log.messages(/runs$/), ['onClose runs', 'first callback runs', 'second callback runs', 'last callback runs'])
    })
  }
}

t.test('a log whose reader pauses: all runs meanwhile, and the process ends once the reader goes on', async t => {
  const program = boundedFork(t, 'broken-log', { FAULT: 'has a reader that pauses', WHEN: 'before the signal' })
  const port = await portOf(program)
  const client = new RawClient(port).get('/held')
  await program.log.line(/^held is in/)
  const resume = program.pauseReading()
  await new RawClient(port).get('/break').until(/broken/)
  program.kill('SIGTERM')
  await program.log.line(/^last callback runs/)
  await client.closed
  t.match(client.text, /200 OK[^]*held$/)
  resume()
  t.equal(await exitInTime(t, program, 0), 0)
  // pino may lose some of the lines before it.
  t.equal(program.log.messages(/^Graceful shutdown complete/).length, 1)
})
