// The one close-with-grace of the process, and the only file that touches `process`. Two of them would race: the first to
// finish ends the process under the other. So all instances share it, also across copies of this package; it is there
// only while one of them listens, so that it disturbs no test runner.

import cluster from 'node:cluster'
import closeWithGrace from 'close-with-grace'
import type { ProcessEvent, ShutdownReport } from '../../types/index.ts'
import type { SafeLog } from './log.ts'
import { now, setTimeout } from '../clock.ts'
import { PROCESS_EVENTS } from '../options.ts'
import { toError } from '../values.ts'

/** close-with-grace exits at once on a second error, while requests are in flight: these are listened to here. */
const ERROR_EVENTS = ['uncaughtException', 'unhandledRejection'] as const

/** Whether listeners of this process are shared with others by node:cluster. */
export const { isWorker: isClusterWorker } = cluster

/** An instance that shuts down with the process. */
export interface Member {
  readonly signals: readonly ProcessEvent[]
  readonly shutdownTimeout: number
  readonly log: SafeLog
  readonly shutdown: (reason: string) => Promise<unknown>
  /** An uncaught error, before the shutdown or during it. */
  readonly fail: (error: Error) => void
  /** The process exits, however far the shutdown is. Returns the exit code that this instance asks for. */
  readonly exit: () => ShutdownReport['exitCode']
}

interface Registry {
  readonly members: Set<Member>
  uninstall: (() => void) | undefined
  /** Why the process shuts down, once it does. */
  reason: string | undefined
  /** When it exits at the latest, as now() counts. */
  deadline: number
  /** The instances that shut down with it; also those that join late. */
  readonly leaving: Set<Member>
}

/** Changed whenever Registry or Member is: copies that differ in it do not share. */
const kRegistry = Symbol.for('fastify-graceful.process.2')

const shared = globalThis as { [kRegistry]?: Registry }
const registry: Registry = shared[kRegistry] ??= {
  members: new Set(), uninstall: undefined, reason: undefined, deadline: Infinity, leaving: new Set()
}

/** From now on, this instance shuts down when the process is told to: at once, if it has been told already. */
export function join (member: Member): void {
  if (member.signals.length === 0 || registry.members.has(member)) return
  registry.members.add(member)
  if (registry.reason === undefined) install()
  else void takeDown(member, registry.reason)
}

/** The instance no longer listens. */
export function leave (member: Member): void {
  if (registry.members.delete(member) && registry.reason === undefined) install()
}

/**
 * Listens to what any member wants; they all shut down together, because the process does. The new listeners come before
 * the old ones go: a signal that has reached Node and not yet its listeners is lost if there is none for a moment.
 */
function install (): void {
  const before = registry.uninstall
  registry.uninstall = registry.members.size > 0 ? listen([...registry.members]) : undefined
  before?.()
}

/** Returns how to undo it. */
function listen (members: readonly Member[]): () => void {
  const wanted = new Set(members.flatMap(({ signals }) => signals))
  const options = {
    // The last deadline is a timer of ours: this one needs a promise.
    delay: null,
    logger: false as const,
    onSecondSignal: (signal: string) => { logAll(`Second signal, ${signal}: exiting at once`) }
  }
  const skip = PROCESS_EVENTS.filter(event => !wanted.has(event) || isErrorEvent(event))
  const grace = closeWithGrace({ ...options, skip }, async ({ signal = 'beforeExit' }) => { await endAll(signal) })
  const stopSignals = keepListening([...wanted].filter(isSignal))
  const trigger = (event: string) => {
    if (registry.reason !== undefined) return
    // One without signals of its own: the first signal from now on joins, and only a second one exits at once.
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

/** Resolves when all are shut down, also those that only now begin to listen; close-with-grace then exits. */
async function endAll (reason: string): Promise<void> {
  const { members, leaving } = registry
  if (registry.reason === undefined) {
    registry.reason = reason
    setDeadline(Math.max(...[...members].map(({ shutdownTimeout }) => shutdownTimeout)))
    // Ahead of the others: pino closes its destination on exit.
    process.prependOnceListener('exit', () => {
      const codes = [...leaving].map(({ exit }) => exit())
      // Whatever ends the process, an own close-with-grace of the user's or of fastify-cli, say: the worst code wins.
      if (codes.includes(1)) process.exitCode ||= 1
    })
  }
  while (members.size > 0) {
    await Promise.all([...members].map(async member => { await takeDown(member, reason) }))
  }
}

/**
 * The last deadline. A plain timer: errors that are thrown in process.nextTick() again and again keep every promise from
 * settling, and timers go on. Those that are thrown in queueMicrotask() keep timers waiting, too, but come here themselves.
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
 * close-with-grace removes its listeners as the first signal comes, and adds others for a second one. If they were the
 * last, Node stops listening and begins anew: a second signal that has already come is lost, and one that comes
 * between ends the process without a word.
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
 * A cluster's worker whose primary is gone (Ctrl-C ends it at once) or has disconnected it. Node would exit here and now,
 * unless the worker says that it exits of its own accord.
 */
function listenToPrimary (trigger: (event: string) => void): () => void {
  const { worker } = cluster
  if (worker === undefined) return () => {}
  const onDisconnect = () => {
    worker.exitedAfterDisconnect = true
    trigger('disconnect')
  }
  // As the worker stops listening, Node tells a primary that may be gone, of which the worker hears only a moment later.
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

/** Also those that have joined a shutdown under way. */
function everyMember (): Set<Member> {
  return new Set([...registry.members, ...registry.leaving])
}

function logAll (message: string): void {
  for (const { log } of everyMember()) log.error(message)
}
