// Callbacks, hooks, listeners and handlers that misbehave during a shutdown, signals that never end, and a process that runs out of file
// descriptors or memory: it ends in time, with the right exit code.

import t from 'tap'
import type { Test } from 'tap'
import { commandOf, exitInTime, fork, portOf, RawClient, runCommand } from '../helpers.ts'

t.jobs = 2

const LISTENER = 'a listener of the signal'
const HANDLER = 'a handler'
const CALLBACKS = ['the first callback', 'a callback', 'the last callback']
const PLACES = [LISTENER, 'a start callback', 'a preClose hook', HANDLER, 'an onClose hook', 'a callback']
const ALL = new Set([...PLACES, ...CALLBACKS])

interface Misbehaviour {
  does: string
  code: number
  /** Where this makes the exit code another one. */
  codes?: Record<string, number>
  /** Where it is tried. */
  places?: readonly string[]
  trigger?: 'close()'
  /** The only line of the log about it, if that ends the process before the shutdown is complete. */
  ends?: RegExp
}

const misbehaviours: Misbehaviour[] = [
  { does: 'exits with 0', code: 1, ends: /^The process exits before/ },
  { does: 'exits with 3', code: 3, ends: /^The process exits before/ },
  { does: 'sends SIGTERM later', code: 1, ends: /^Second signal, SIGTERM/, places: PLACES.filter(place => place !== LISTENER) },
  { does: 'sends SIGTERM at once', code: 0, trigger: 'close()' },
  // Nothing waits for a listener. What a handler throws is answered with 500.
  { does: 'hangs', code: 1, codes: { [LISTENER]: 0 } },
  { does: 'throws', code: 1, codes: { [HANDLER]: 0 } },
  { does: 'throws later', code: 1 },
  { does: 'calls close()', code: 0 },
  // A handler that awaits the end of the shutdown waits for itself.
  { does: 'awaits close()', code: 0, codes: { [HANDLER]: 1 } },
  { does: 'awaits shutdown()', code: 0, codes: { [HANDLER]: 1 } }
]

const OPTIONS = '{"drainTimeout":600,"shutdownTimeout":1500}'

for (const { does, code, codes = {}, places = PLACES, trigger, ends } of misbehaviours) {
  for (const where of places) {
    t.test(`${where} that ${does}: the process exits in time, and everything else runs once and in order`, async t => {
      const program = fork(t, 'misbehaving', { DOES: does, WHERE: where, OPTIONS })
      const port = await portOf(program)
      const client = new RawClient(port).get('/held')
      await program.log.line(/^held is in/)
      if (trigger === 'close()') new RawClient(port).get('/close')
      t.equal(await exitInTime(t, program, 1_500, trigger === undefined ? 'SIGTERM' : undefined), codes[where] ?? code)
      await client.closed
      const run = program.log.messages(/ runs$/).map(message => message.replace(/ runs$/, ''))
      if (ends === undefined) t.strictSame(new Set(run), ALL)
      else t.equal(program.log.messages(ends).length, 1)
      t.equal(new Set(run).size, run.length, 'each once')
      const callbacks = run.filter(place => CALLBACKS.includes(place))
      t.strictSame(callbacks, CALLBACKS.slice(0, callbacks.length))
    })
  }
}

t.test('a hundred SIGTERM in a millisecond are one', async t => {
  const program = fork(t, 'misbehaving')
  const client = new RawClient(await portOf(program)).get('/held')
  await program.log.line(/^held is in/)
  for (let index = 0; index < 99; index++) program.kill('SIGTERM')
  t.equal(await exitInTime(t, program, 1_000, 'SIGTERM'), 0)
  t.match(client.text, /200 OK[^]*held$/)
  t.strictSame(new Set(program.log.messages(/ runs$/)), new Set([...ALL].map(place => `${place} runs`)))
  t.equal(program.log.messages(/^SIGTERM received/).length, 1)
})

t.test('a hundred signals of four kinds in a millisecond end the process at once, and the request that this cuts is named', async t => {
  const program = fork(t, 'misbehaving')
  new RawClient(await portOf(program)).get('/held')
  await program.log.line(/^held is in/)
  for (let index = 0; index < 100; index++) program.kill((['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const)[index % 4] ?? 'SIGTERM')
  t.equal(await exitInTime(t, program, 0), 1)
  t.equal(program.log.messages(/^Second signal/).length, 1)
  t.match(await program.log.line(/^Request cut/), { url: '/held' })
})

/** A program of test/fixtures under limits of the shell. */
const limited = (t: Test, limits: string, name: string, env: Record<string, string> = {}, nodeOptions: string[] = []) =>
  runCommand(t, ['sh', '-c', `${limits}; exec "$@"`, 'sh', ...commandOf(name, env, nodeOptions)], env)

for (const when of ['before the signal', 'while draining']) {
  t.test(`a process that runs out of file descriptors ${when} answers the request in flight, cleans up and exits with 0`, async t => {
    const program = limited(t, 'ulimit -n 64', 'service')
    const port = await portOf(program)
    const client = new RawClient(port).get(`/slow?ms=500&until=shutdown`)
    await program.log.line(/^slow request is in/)
    if (when === 'while draining') {
      program.kill('SIGTERM')
      await program.log.line(/^Waiting for 1/)
    }
    const crowd = Array.from({ length: 100 }, () => new RawClient(port))
    // Nothing is read from these: the kernel, or Node, which is out of descriptors, closes them.
    await Promise.race(crowd.map(async ({ closed }) => { await closed }))
    if (when === 'before the signal') program.kill('SIGTERM')
    t.equal(await exitInTime(t, program, 2_000), 0)
    await Promise.all([client, ...crowd].map(async ({ closed }) => { await closed }))
    t.match(client.text, /200 OK[^]*slow$/)
    await program.log.line(/^callback runs: SIGTERM/)
  })
}

for (const where of ['a start callback', HANDLER, 'a callback']) {
  t.test(`${where} that fills the memory ends the process by V8's abort, not with 0`, async t => {
    const program = limited(t, 'ulimit -c 0', 'misbehaving', { DOES: 'fills the memory', WHERE: where, OPTIONS: '{}' }, ['--max-old-space-size=32'])
    new RawClient(await portOf(program)).get('/held')
    await program.log.line(/^held is in/)
    program.kill('SIGTERM')
    t.strictSame(await program.exit, { code: null, signal: 'SIGABRT' })
    t.match(program.output(), /heap out of memory/)
  })
}
