// The only file that acts on `process`. All instances share one set of listeners and one close-with-grace, even across copies of
// this package: with two of them, the first to finish would end the process under the other. The listeners exist only while an
// instance listens or shuts down, so that they do not disturb test runners. close-with-grace runs the shutdown, but listens to no
// event: it would exit at once at any second signal, and also if other code has closed the instance and goes on.

import type { Options } from '../options.ts'
import type { SafeLog } from './log.ts'
import type { Shutdown } from './shutdown.ts'
import cluster from 'node:cluster'
import process from 'node:process'
import { isMainThread } from 'node:worker_threads'
import closeWithGrace from 'close-with-grace'
import { clearTimeout, nextTick, now, setImmediate, setLateTimeout, setTimeout, wholeTurn } from '../clock.ts'
import { RuntimeUnsupportedError } from '../errors.ts'
import { CRASH_SIGNALS, PROCESS_EVENTS } from '../options.ts'
import { EXIT_CHECK, EXIT_FLUSH, LOG_FLUSH, SIGNAL_COPY } from '../times.ts'
import { attempt, toError } from '../values.ts'
import { print } from './log.ts'

/** An instance, as the process sees it. */
export interface Member {
  readonly options: Pick<Options, 'signals' | 'shutdownTimeout'>
  readonly log: SafeLog
  readonly shutdown: Pick<Shutdown, 'start' | 'ended' | 'noteError' | 'answerBeforeExit' | 'isSending' | 'noteExit' | 'hasCaller' | 'isComplete'>
}

interface Registry {
  /** The instances that shut down with the process: those that listen, unless their `signals` are `false`. */
  readonly members: Set<Member>
  /** The instances that are shutting down, whatever has started that. Once the process shuts down, they stay. */
  readonly closing: Set<Member>
  uninstall: (() => void) | undefined
  /** The exit listener. One copy adds it, and another one may remove it. */
  readonly onExit: () => void
  /** Why the process shuts down; undefined until it does. */
  reason: string | undefined
  /** The first signal. */
  signal: string | undefined
  /** Whether the time is over in which the same signal again is a copy. */
  areCopiesOver: boolean
  /** When it exits at the latest, on the clock of now(). */
  deadline: number
  /** The worst exit code of all instances that have ended, also of those that other code has closed. */
  exitCode: 0 | 1
  /** Whether it exits before the shutdown is complete. */
  isForced: boolean
  /** Whether `exit` has been emitted: lines that are logged from now on may not be written. */
  isExiting: boolean
}

/** Changed whenever Registry or Member changes, so that incompatible copies do not share. */
const kRegistry = Symbol.for('fastify-graceful.process.13')

const shared = globalThis as { [kRegistry]?: Registry }
const registry: Registry = shared[kRegistry] ??= {
  members: new Set(), closing: new Set(), uninstall: undefined, onExit, reason: undefined, signal: undefined, areCopiesOver: false,
  deadline: Infinity, exitCode: 0, isForced: false, isExiting: false
}

/** Bun and Deno lack the channels and properties of node:http that the plugin relies on. */
export function assertNode (): void {
  const runtime = ['bun', 'deno'].find(name => process.versions[name] !== undefined)
  if (runtime !== undefined) throw new RuntimeUnsupportedError(runtime)
}

/** Until its end, this instance shuts down with the process; at once, if the process is already shutting down. */
export function joinProcess (member: Member): void {
  const { options, log, shutdown } = member
  if (options.signals.length === 0 || registry.members.has(member)) return
  // A list with signals has been rejected, so these are the defaults.
  if (!isMainThread && options.signals.includes('SIGTERM')) log.warn('A worker thread receives no signals: let the main thread tell it when to call fastify.close()')
  registry.members.add(member)
  if (registry.reason === undefined) {
    install()
    return
  }
  // Even if other code has closed all others: the process ends at the deadline.
  log.warn(`The process is shutting down (${registry.reason}), so an instance that starts to listen now shuts down at once`)
  void shutdown.start(registry.reason)
}

/** This instance does not listen any more, or has ended. */
export function leaveProcess (member: Member): void {
  if (registry.reason === undefined && registry.members.delete(member)) install()
}

/** An instance shuts down. The plugin does not end the process before it; if other code does, the log names what is lost. */
export function noteShutdown (member: Member): void {
  const { closing } = registry
  closing.add(member)
  // Before other listeners, because pino closes its destination on exit.
  if (closing.size === 1) tryListen('exit', () => { process.prependListener('exit', registry.onExit) })
  void member.shutdown.ended.then(({ exitCode }) => {
    registry.exitCode ||= exitCode
    // If the process shuts down, it stays, because endAll() asks whether other code has closed it.
    if (registry.reason !== undefined) return
    closing.delete(member)
    if (closing.size === 0) process.off('exit', registry.onExit)
    leaveProcess(member)
  })
}

/**
 * Whether `close()` may be part of a deploy. Not if code closes an instance of a process that goes on, as a test suite does. Other
 * code that handles SIGTERM may call `close()` because the process ends, without this plugin's knowledge.
 */
export function mayBeDeploy (): boolean {
  if (registry.reason !== undefined) return true
  return process.eventNames().includes('SIGTERM') && ![...registry.members].some(({ options }) => options.signals.includes('SIGTERM'))
}

/** Whether node:cluster is disconnecting this worker. It closes the listeners with a callback, and disconnects once they are closed. */
export function isDisconnecting (): boolean {
  return cluster.worker?.exitedAfterDisconnect === true && cluster.worker.isConnected()
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
  const undo: Array<() => void> = []
  const on = (emitter: NodeJS.EventEmitter, event: string, listener: (argument: unknown, origin: string) => void) => {
    tryListen(event, () => { emitter.on(event, listener) })
    undo.push(() => { emitter.off(event, listener) })
  }
  const events = new Set([...registry.members].flatMap(({ options: { signals } }) => signals))
  // Node turns an unhandled rejection into an uncaught exception, unless a flag or a listener of the application says otherwise.
  if (events.has('uncaughtException')) events.delete('unhandledRejection')
  for (const event of events) {
    if (event === 'uncaughtException') on(process, event, (thrown, origin) => { fail(origin, toError(thrown)) })
    else if (event === 'unhandledRejection') on(process, event, thrown => { fail(event, toError(thrown)) })
    else if (event.startsWith('SIG')) on(process, event, () => { receive(event) })
    else on(process, event, () => { begin(event) })
  }
  const { worker } = cluster
  if (worker !== undefined) {
    // The primary is gone (Ctrl-C ends it at once) or has disconnected this worker. Node would exit immediately if
    // `exitedAfterDisconnect` were not set.
    on(worker, 'disconnect', () => {
      worker.exitedAfterDisconnect = true
      begin('disconnect')
    })
    // A worker that stops listening notifies its primary. If that has just gone, the write fails with EPIPE.
    on(worker, 'error', error => {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error
    })
  }
  const noteExiting = () => { registry.isExiting = true }
  tryListen('exit', () => { process.prependListener('exit', noteExiting) })
  undo.push(() => { process.off('exit', noteExiting) })
  return () => { for (const stop of undo) stop() }
}

/** A 'newListener' listener of the application may throw, as a guard against leaks does. The instances go on without this listener. */
function tryListen (event: string, add: () => void): void {
  try {
    add()
  } catch (thrown) {
    for (const { log } of allMembers()) log.error(`Cannot listen to the process event ${event}`, { err: toError(thrown) })
  }
}

/** An uncaught error starts a shutdown, or makes the one in progress unclean, even if an exit listener of the application throws it. */
function fail (event: string, error: Error): void {
  registry.exitCode = 1
  // Set at once: if an exit listener has thrown it, the plugin's own one may not be called. Without a shutdown, Node keeps the code of
  // `process.exit()`.
  if (registry.reason === undefined) process.exitCode ??= 1
  else worsenExitCode(1)
  for (const { shutdown } of registry.members) shutdown.noteError(error)
  // As Node does without a listener for it.
  if (registry.isExiting) print(error)
  endIfExiting()
  begin(event)
  if (now() > registry.deadline) exitAtDeadline()
}

let exitCheck: NodeJS.Timeout | undefined

/**
 * Ends the process if it is exiting. If an exit listener throws, `process.exit()` throws. Node then goes on until the next call, because
 * there is a listener for uncaught errors, but calls no callbacks of `process.nextTick()` any more. The check comes late, and later after
 * each further error, because an error in one such callback delays the others.
 */
function endIfExiting (): void {
  let isExiting = true
  nextTick(() => { isExiting = false })
  clearTimeout(exitCheck)
  exitCheck = setTimeout(() => { if (isExiting) process.exit() }, EXIT_CHECK).unref()
}

/** The first signal joins a shutdown in progress. A second one exits at once, unless it is a copy of the first. */
function receive (name: string): void {
  const { signal, areCopiesOver } = registry
  if (signal !== undefined) {
    if (name !== signal || areCopiesOver) exit(`Second signal, ${name}: exiting at once`, isOnlyExitLeft() ? 0 : 1)
    return
  }
  registry.signal = name
  // Late, because Node reports what came while the event loop was blocked only afterwards.
  setLateTimeout(() => { registry.areCopiesOver = true }, SIGNAL_COPY).unref()
  begin(name)
  // The process may be shutting down for another reason.
  for (const { shutdown } of registry.members) void shutdown.start(name)
}

function begin (reason: string): void {
  if (registry.reason !== undefined) return
  registry.reason = reason
  const limit = Math.max(...[...registry.members].map(({ options }) => options.shutdownTimeout))
  // A plain timer: errors thrown again and again in process.nextTick() keep promises from settling, but not timers. Errors
  // thrown in queueMicrotask() also hold up timers; the error listener checks the deadline then. If nothing is left to wait for,
  // the process ends by itself.
  registry.deadline = now() + limit
  setTimeout(exitAtDeadline, limit).unref()
  // It listens to no event. Its callback never reports the end, because close-with-grace would then exit, even if other code has
  // closed the instance and goes on.
  const skip = [...PROCESS_EVENTS, ...CRASH_SIGNALS]
  closeWithGrace({ delay: null, logger: false, skip }, () => { void endAll(reason) }).close()
}

/**
 * Shuts all members down, including those that start to listen meanwhile, waits for every instance that is shutting down, and ends the
 * process. If other code has closed one of them, it may have more to do, and the process is left to it.
 */
async function endAll (reason: string): Promise<void> {
  const { members, closing } = registry
  for (const { shutdown } of members) void shutdown.start(reason)
  let known: number
  let hasCaller: boolean
  do {
    known = closing.size
    await Promise.all([...closing].map(async ({ shutdown }) => await shutdown.ended))
    hasCaller = [...closing].some(({ shutdown }) => shutdown.hasCaller)
    // At once: the code that has called `close()` may send the process the signal again, as NestJS does.
    if (hasCaller) registry.uninstall?.()
    // Code that has awaited `wait()` goes on, at least for a turn.
    else await wholeTurn()
  } while (closing.size > known)
  // Before the exit, so that all exit listeners get the right code.
  worsenExitCode(registry.exitCode)
  if (hasCaller) return
  await Promise.all([...allMembers()].map(async ({ log }) => { await log.whenRead() }))
  dropUnwritableLines()
  // An exit listener may throw, and the application may ignore rejections.
  nextTick(() => { process.exit() })
}

function exitAtOnce (): void {
  dropUnwritableLines()
  // Also if the application has set another one meanwhile.
  if (registry.exitCode > 0) process.exitCode = registry.exitCode
  process.exit()
}

function dropUnwritableLines (): void {
  for (const { log } of allMembers()) log.dropUnwritable()
}

/** Those that listen, and those that are shutting down. */
function allMembers (): Set<Member> {
  return new Set([...registry.members, ...registry.closing])
}

/**
 * If the process shuts down, the worst exit code wins, even if other code ends it, such as fastify-cli or a user's own close-with-grace.
 * Otherwise, the exit code is left to the code that ends the process.
 */
function onExit (): void {
  const codes = [...registry.closing].map(({ shutdown }) => shutdown.noteExit())
  if (registry.reason !== undefined) worsenExitCode(Math.max(registry.exitCode, ...codes))
}

/**
 * Keeps a code other than 0 that other code has set. Does not set 0: after an exit listener has thrown, Node exits with 1 unless a code
 * is set.
 */
function worsenExitCode (code: number): void {
  // It may be a string, and '0' is true.
  if (code > 0 && !Number(process.exitCode)) process.exitCode = code
}

function exitAtDeadline (): void {
  exit('The process has not ended within shutdownTimeout: exiting', 1)
  // Errors thrown again and again in queueMicrotask() also hold up the writing of the log.
  if (now() > registry.deadline + LOG_FLUSH) exitAtOnce()
}

/** Whether all shutdowns are complete, and no other code goes on after them. */
function isOnlyExitLeft (): boolean {
  return [...allMembers()].every(({ shutdown }) => shutdown.isComplete && !shutdown.hasCaller)
}

/**
 * Exits with this code, or the worst of all reports, as soon as the last answers are sent and the log is written; also if one of these
 * steps throws. Does not wait for promises.
 */
function exit (message: string, code: 0 | 1): void {
  if (registry.isForced) return
  registry.isForced = true
  registry.exitCode ||= code
  const all = [...allMembers()]
  for (const { log, shutdown } of all) {
    log.error(message)
    attempt(() => { shutdown.answerBeforeExit() })
  }
  const end = now() + EXIT_FLUSH
  const finish = () => {
    if (now() < end && all.some(({ shutdown }) => shutdown.isSending)) {
      setImmediate(finish)
      return
    }
    let pending = all.length
    // Not in an exit listener: pino's never ends if these are the first lines to a pipe without a reader.
    for (const { log, shutdown } of all) {
      attempt(() => shutdown.noteExit())
      log.afterFlush(() => { if (--pending === 0) exitAtOnce() })
    }
  }
  finish()
}
