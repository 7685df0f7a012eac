// The only close-with-grace of the process, and the only file that touches `process`. Two of them would race: the first to
// finish would end the process under the other. So all instances share one, even across copies of this package. It exists only
// while an instance listens, so that it does not disturb test runners.

import cluster from 'node:cluster'
import closeWithGrace from 'close-with-grace'
import type { Options } from '../options.ts'
import type { SafeLog } from './log.ts'
import type { Shutdown } from './shutdown.ts'
import { now, setTimeout } from '../clock.ts'
import { PROCESS_EVENTS } from '../options.ts'
import { toError } from '../values.ts'

/** close-with-grace exits at once on a second error, even with requests in flight, so these are handled here. */
const ERROR_EVENTS: ReadonlySet<string> = new Set(['uncaughtException', 'unhandledRejection'])

/** An instance that shuts down with the process. */
export interface Member {
  readonly options: Pick<Options, 'signals' | 'shutdownTimeout'>
  readonly log: SafeLog
  readonly shutdown: Pick<Shutdown, 'start' | 'ended' | 'fail' | 'exit'>
}

interface Registry {
  /** The instances that shut down with the process. Once it does, they stay, also those that join late. */
  readonly members: Set<Member>
  uninstall: (() => void) | undefined
  /** Why the process shuts down; undefined until it does. */
  reason: string | undefined
  /** When it exits at the latest, on the clock of now(). */
  deadline: number
}

/** Changed whenever Registry or Member changes, so that incompatible copies do not share. */
const kRegistry = Symbol.for('fastify-graceful.process.3')

const shared = globalThis as { [kRegistry]?: Registry }
const registry: Registry = shared[kRegistry] ??= { members: new Set(), uninstall: undefined, reason: undefined, deadline: Infinity }

/** Until its end, this instance shuts down with the process; at once, if the process is already shutting down. */
export function joinProcess (member: Member): void {
  const { options, shutdown } = member
  if (options.signals.length === 0 || registry.members.has(member)) return
  registry.members.add(member)
  void shutdown.ended.then(() => {
    // If the process shuts down, it stays a member, for its exit code.
    if (registry.reason === undefined && registry.members.delete(member)) install()
  })
  if (registry.reason === undefined) install()
  else void shutdown.start(registry.reason)
}

/** Whether the process shuts down. */
export function isProcessEnding (): boolean {
  return registry.reason !== undefined
}

/**
 * Listens to the events that any member wants; they all shut down together, because the process does. New listeners are added
 * before old ones are removed: a signal that Node has received but not emitted yet is lost if there is no listener.
 */
function install (): void {
  const before = registry.uninstall
  registry.uninstall = registry.members.size > 0 ? listen() : undefined
  before?.()
}

/** Returns the undo function. */
function listen (): () => void {
  const wanted = new Set([...registry.members].flatMap(({ options: { signals } }) => signals))
  const options = {
    // A timer of ours forces the exit: this one needs a promise.
    delay: null,
    logger: false as const,
    onSecondSignal: (signal: string) => { logAll(`Second signal, ${signal}: exiting at once`) }
  }
  const skip = PROCESS_EVENTS.filter(event => !wanted.has(event) || ERROR_EVENTS.has(event))
  const grace = closeWithGrace({ ...options, skip }, async ({ signal = 'beforeExit' }) => { await endAll(signal) })
  const trigger = (event: string) => {
    if (registry.reason !== undefined) return
    // Has no events of its own: the next signal joins this shutdown, and only the one after that exits at once.
    closeWithGrace({ ...options, skip: [...PROCESS_EVENTS] }, async () => { await endAll(event) }).close()
  }

  const undo = [() => { grace.uninstall() }]
  const on = (emitter: NodeJS.EventEmitter, event: string, listener: (argument: unknown) => void) => {
    emitter.on(event, listener)
    undo.push(() => { emitter.off(event, listener) })
  }
  for (const event of wanted) {
    if (ERROR_EVENTS.has(event)) {
      on(process, event, thrown => {
        for (const { shutdown } of registry.members) shutdown.fail(toError(thrown))
        trigger(event)
        if (now() > registry.deadline) exitAtDeadline()
      })
    } else if (event.startsWith('SIG')) {
      // close-with-grace removes its listeners on the first signal and adds others for a second one. If they were the last,
      // Node stops listening and starts again: a second signal that was already received is lost, and one that arrives in
      // between ends the process silently.
      on(process, event, () => {})
    }
  }
  const { worker } = cluster
  if (worker !== undefined) {
    // The primary is gone (Ctrl-C ends it at once) or has disconnected this worker. Node would exit immediately if
    // `exitedAfterDisconnect` were not set.
    on(worker, 'disconnect', () => {
      worker.exitedAfterDisconnect = true
      trigger('disconnect')
    })
    // A worker that stops listening notifies its primary. If that has just gone, the write fails with EPIPE.
    on(worker, 'error', error => {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
    })
  }
  return () => { for (const stop of undo) stop() }
}

/** Resolves when all are shut down, including those that start to listen meanwhile; close-with-grace then exits. */
async function endAll (reason: string): Promise<void> {
  const { members } = registry
  if (registry.reason === undefined) {
    registry.reason = reason
    const limit = Math.max(...[...members].map(({ options }) => options.shutdownTimeout))
    // A plain timer: errors thrown again and again in process.nextTick() keep promises from settling, but not timers. Errors
    // thrown in queueMicrotask() also hold up timers; the error listener checks the deadline then.
    registry.deadline = now() + limit
    setTimeout(exitAtDeadline, limit)
    // Before other listeners, because pino closes its destination on exit.
    process.prependOnceListener('exit', () => {
      const codes = [...members].map(({ shutdown }) => shutdown.exit())
      // Also if other code ends the process, such as fastify-cli's or a user's own close-with-grace: the worst code wins.
      if (codes.includes(1)) process.exitCode ||= 1
    })
  }
  let known: number
  do {
    known = members.size
    await Promise.all([...members].map(async ({ shutdown }) => await shutdown.start(reason)))
  } while (members.size > known)
}

function exitAtDeadline (): void {
  logAll('Not shut down within shutdownTimeout: exiting')
  process.exit(1)
}

function logAll (message: string): void {
  for (const { log } of registry.members) log.error(message)
}
