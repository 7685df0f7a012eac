// A process that stalls: its event loop is blocked, it is stopped, or its clock is changed. Nothing is lost because of that.

import t from 'tap'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import type { GracefulOptions } from '../../types/index.ts'
import type { Program } from '../helpers.ts'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Deferred, exitInTime, fork, portOf, RawClient } from '../helpers.ts'

// Most of the time they wait.
t.jobs = 3

const PHASES = ['running', 'delaying', 'draining', 'closing', 'callbacks'] as const
const CALLBACKS = ['first', 'second', 'last'].flatMap(name => [`${name} callback runs`, `${name} callback ends`])

interface Stall {
  how: string
  when: string
  /** For how long, in milliseconds. */
  time: number
}

interface Stalling {
  program: Program
  port: number
  /** A request that waits for an upstream service. */
  client: RawClient
  /** Lets the upstream service answer. */
  answer: () => void
}

/** Starts a service that will stall, with a request in flight. */
async function start (t: Test, { how, when, time }: Stall, options: GracefulOptions): Promise<Stalling> {
  const asked = new Deferred()
  const answer = new Deferred()
  const upstream = createServer((_request, response) => {
    asked.resolve()
    void answer.promise.then(() => { response.end('held') })
  }).listen(0, '127.0.0.1')
  t.teardown(() => { upstream.close().closeAllConnections() })
  await once(upstream, 'listening')
  const UPSTREAM = String((upstream.address() as AddressInfo).port)
  const program = fork(t, 'stall', { HOW: how, WHEN: when, STALL: String(time), UPSTREAM, OPTIONS: JSON.stringify(options) })
  const port = await portOf(program)
  const client = new RawClient(port).get('/held')
  await asked.promise
  return { program, port, client, answer: () => { answer.resolve() } }
}

/** Sends SIGTERM and waits until the service stalls. */
async function terminate ({ program, port, answer }: Stalling, when: string): Promise<void> {
  const stalls = program.log.line(/^stalls/)
  if (when === 'running') {
    new RawClient(port).get('/stall')
    await stalls
    program.kill('SIGTERM')
    return
  }
  program.kill('SIGTERM')
  if (when === 'closing' || when === 'callbacks') {
    await program.log.line(/^draining/)
    answer()
  }
  await stalls
}

const stalls: Array<[what: string, how: string, time: number]> = [
  ['the event loop is blocked for 2 s', 'blocked', 2_000],
  ['the process is stopped for a second', 'stopped', 1_000],
  ['the clock is put forward by a day', 'put forward by a day', 0],
  ['the clock is put back by a day', 'put back by a day', 0]
]

for (const [what, how, time] of stalls) {
  for (const when of PHASES) {
    t.test(`${what} while ${when}: what arrives meanwhile counts, every callback runs, and the process ends in time`, async t => {
      const options = { shutdownDelay: 300, drainTimeout: 700, shutdownTimeout: 10_000 }
      const stalling = await start(t, { how, when, time }, options)
      const { program, client, answer } = stalling
      await terminate(stalling, when)
      // Before the process goes on.
      answer()
      if (how === 'stopped') {
        await sleep(time)
        program.kill('SIGCONT')
      }
      t.equal(await exitInTime(t, program, time + options.shutdownDelay + options.drainTimeout), 0)
      await client.closed
      t.match(client.text, /200 OK[^]*held$/)
      t.strictSame(program.log.messages(/callback/), CALLBACKS)
      t.match(await program.log.line(/^report/), { cut: 0, errors: { length: 0 }, exitCode: 0 })
    })
  }
}

for (const when of PHASES.slice(1)) {
  t.test(`the event loop is blocked beyond shutdownTimeout while ${when}: the process then exits at once, with 1`, async t => {
    const time = 1_500
    const stalling = await start(t, { how: 'blocked', when, time }, { shutdownDelay: 200, drainTimeout: 500, shutdownTimeout: 1_000 })
    await terminate(stalling, when)
    t.equal(await exitInTime(t, stalling.program, time), 1)
    if (when === 'delaying' || when === 'draining') t.match(stalling.program.output(), /^Request cut: .*\/held/m)
  })
}

for (const copies of [1, 100]) {
  t.test(`${copies} more of the same signal, while the event loop is blocked for longer than copies may take, are copies`, async t => {
    const stalling = await start(t, { how: 'blocked', when: 'the signal', time: 500 }, { shutdownDelay: 100, drainTimeout: 5_000 })
    await terminate(stalling, 'the signal')
    for (let index = 0; index < copies; index++) stalling.program.kill('SIGTERM')
    stalling.answer()
    t.strictSame(await stalling.program.exit, { code: 0, signal: null })
    t.match(stalling.client.text, /200 OK[^]*held$/)
  })
}
