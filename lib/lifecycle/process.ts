// The only close-with-grace of the process, and the only file that touches `process`. Two of them would race: the first to
// finish would end the process under the other. So all instances share one, even across copies of this package. It exists only
// while an instance listens, so that it does not disturb test runners.

import cluster from 'node:cluster'
import closeWithGrace from 'close-with-grace'
import type { ProcessEvent, ShutdownReport } from '../../types/index.ts'
import type { SafeLog } from './log.ts'
import { now, setTimeout } from '../clock.ts'
import { PROCESS_EVENTS } from '../options.ts'
import { toError } from '../values.ts'

/** close-with-grace exits at once on a second error, even with requests in flight, so these are handled here. */
const ERROR_EVENTS = ['uncaughtException', 'unhandledRejection'] as const

/** Whether node:cluster shares the listeners of this process with other workers. */
export const { isWorker: isClusterWorker } = cluster

/** An instance that shuts down with the process. */
export interface Member {
  readonly signals: readonly ProcessEvent[]
  readonly shutdownTimeout: number
  readonly log: SafeLog
  readonly shutdown: (reason: string) => Promise<unknown>
  /** An uncaught error, before or during the shutdown. */
  readonly fail: (error: Error) => void
  /** Called when the process exits, in any phase. Returns the exit code that this instance asks for. */
  readonly exit: () => ShutdownReport['exitCode']
}

interface Registry {
  readonly members: Set<Member>
  uninstall: (() => void) | undefined
  /** Why the process shuts down; undefined until it does. */
  reason: string | undefined
  /** When it exits at the latest, on the clock of now(). */
  deadline: number
  /** The instances that shut down with it, also those that join late. */
  readonly leaving: Set<Member>
}

/** Changed whenever Registry or Member changes, so that incompatible copies do not share. */
const kRegistry = Symbol.for('fastify-graceful.process.2')

const shared = globalThis as { [kRegistry]?: Registry }
const registry: Registry = shared[kRegistry] ??= {
  members: new Set(), uninstall: undefined, reason: undefined, deadline: Infinity, leaving: new Set()
}

/** From now on, this instance shuts down with the process; at once, if the process is already shutting down. */
export function join (member: Member): void {
  if (member.signals.length === 0 || registry.members.has(member)) return
  registry.members.add(member)
  if (registry.reason === undefined) install()
  else void takeDown(member, registry.reason)
}

/** The instance has shut down. */
export function leave (member: Member): void {
  if (registry.members.delete(member) && registry.reason === undefined) install()
}

/**
 * Listens to the events that any member wants; they all shut down together, because the process does. New listeners are added
 * before old ones are removed: a signal that Node has received but not emitted yet is lost if there is no listener.
 */
function install (): void {
  const before = registry.uninstall
  registry.uninstall = registry.members.size > 0 ? listen([...registry.members]) : undefined
  before?.()
}

/** Returns the undo function. */
function listen (members: readonly Member[]): () => void {
  const wanted = new Set(members.flatMap(({ signals }) => signals))
  const options = {
    // A timer of ours forces the exit: this one needs a promise.
    delay: null,
    logger: false as const,
    onSecondSignal: (signal: string) => { logAll(`Second signal, ${signal}: exiting at once`) }
  }
  const skip = PROCESS_EVENTS.filter(event => !wanted.has(event) || isErrorEvent(event))
  const grace = closeWithGrace({ ...options, skip }, async ({ signal = 'beforeExit' }) => { await endAll(signal) })
  const stopSignals = keepListening([...wanted].filter(isSignal))
  const trigger = (event: string) => {
    if (registry.reason !== undefined) return
    // Has no events of its own: the next signal joins this shutdown, and only the one after that exits at once.
    closeWithGrace({ ...options, skip: [...PROCESS_EVENTS] }, async () => { await endAll(event) }).close()
  }
  const stopErrors = listenToErrors(ERROR_EVENTS.filter(event => wanted.has(event)), trigger)
  const stopPrimary = listenToPrimary(trigger)
  return () => {
    grace.uninstall()
    stopSignals()
    stopErrors()
    stopPrimary()
  }
}

/** Resolves when all are shut down, including those that start to listen meanwhile; close-with-grace then exits. */
async function endAll (reason: string): Promise<void> {
  const { members, leaving } = registry
  if (registry.reason === undefined) {
    registry.reason = reason
    setDeadline(Math.max(...[...members].map(({ shutdownTimeout }) => shutdownTimeout)))
    // Before other listeners, because pino closes its destination on exit.
    process.prependOnceListener('exit', () => {
      const codes = [...leaving].map(({ exit }) => exit())
      // Also if other code ends the process, such as fastify-cli's or a user's own close-with-grace: the worst code wins.
      if (codes.includes(1)) process.exitCode ||= 1
    })
  }
  while (members.size > 0) {
    await Promise.all([...members].map(async member => { await takeDown(member, reason) }))
  }
}

/**
 * Forces the exit. A plain timer: errors thrown again and again in process.nextTick() keep promises from settling, but not
 * timers. Errors thrown in queueMicrotask() also hold up timers; the error listener checks the deadline then.
 */
function setDeadline (milliseconds: number): void {
  registry.deadline = now() + milliseconds
  setTimeout(exitAtDeadline, milliseconds)
}

function exitAtDeadline (): void {
  logAll('Not shut down within shutdownTimeout: exiting')
  process.exit(1)
}

async function takeDown (member: Member, reason: string): Promise<void> {
  registry.leaving.add(member)
  await member.shutdown(reason)
  leave(member)
}

/**
 * close-with-grace removes its listeners on the first signal and adds others for a second one. If they were the last, Node
 * stops listening and starts again: a second signal that was already received is lost, and one that arrives in between ends the
 * process silently.
 */
function keepListening (signals: readonly NodeJS.Signals[]): () => void {
  const listener = () => {}
  for (const signal of signals) process.on(signal, listener)
  return () => { for (const signal of signals) process.off(signal, listener) }
}

type ErrorEvent = typeof ERROR_EVENTS[number]

function listenToErrors (wanted: readonly ErrorEvent[], trigger: (event: string) => void): () => void {
  const listeners = wanted.map(event => {
    const listener = (thrown: unknown) => {
      for (const { fail } of everyMember()) fail(toError(thrown))
      trigger(event)
      if (now() > registry.deadline) exitAtDeadline()
    }
    process.on(event, listener)
    return () => { process.off(event, listener) }
  })
  return () => { for (const stop of listeners) stop() }
}

/**
 * A cluster worker whose primary is gone (Ctrl-C ends it at once) or has disconnected it. Node would exit immediately if
 * `exitedAfterDisconnect` were not set.
 */
function listenToPrimary (trigger: (event: string) => void): () => void {
  const { worker } = cluster
  if (worker === undefined) return () => {}
  const onDisconnect = () => {
    worker.exitedAfterDisconnect = true
    trigger('disconnect')
  }
  // A worker that stops listening notifies its primary. If that has just gone, the write fails with EPIPE.
  const onError = (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  }
  worker.on('disconnect', onDisconnect)
  worker.on('error', onError)
  return () => {
    worker.off('disconnect', onDisconnect)
    worker.off('error', onError)
  }
}

function isSignal (event: ProcessEvent): event is ProcessEvent & NodeJS.Signals {
  return event.startsWith('SIG')
}

function isErrorEvent (event: ProcessEvent): boolean {
  return (ERROR_EVENTS as readonly ProcessEvent[]).includes(event)
}

/** Including members that joined during the shutdown. */
function everyMember (): Set<Member> {
  return new Set([...registry.members, ...registry.leaving])
}

function logAll (message: string): void {
  for (const { log } of everyMember()) log.error(message)
}
