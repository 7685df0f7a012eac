// The log during a shutdown: if it throws, the shutdown goes on; if there is none, errors go to stderr.

import type { FastifyBaseLogger } from 'fastify'
import { errorMonitor, type EventEmitter } from 'node:events'
import { writeSync } from 'node:fs'
import process from 'node:process'
import { trySet } from '../before-call.ts'
import { now, setTimeout } from '../clock.ts'
import { LOG_CHECK, LOG_FLUSH, STEP_PART } from '../times.ts'
import { attempt, messageOf, show } from '../values.ts'

type Level = 'debug' | 'info' | 'warn' | 'error'
type Write = (message: string, details?: object) => void

/** Fastify's logger, with what those of pino and winston also have. */
type Log = FastifyBaseLogger & { flush?: () => unknown, isLevelEnabled?: (level: Level) => boolean }

/** The uncaught errors that stderr has shown: several instances without a logger get the same one. */
const printed = new WeakSet<Error>()

/** The source of a function that does nothing, also if it is minified. */
const EMPTY = /\{\s*\}$/

/**
 * Wraps Fastify's logger so that no method throws. A shutdown callback may have destroyed the destination, or a user's logger
 * may have a bug. An error that cannot be logged is then written to stderr, and so is every error if there is no logger.
 */
export class SafeLog {
  readonly #log: Log

  constructor (log: FastifyBaseLogger) {
    this.#log = log
    const destination = attempt(() => sonicBoomOf(log))
    if (destination !== undefined) observe(destination)
  }

  readonly debug: Write = (message, details) => { this.#write('debug', message, details) }
  readonly info: Write = (message, details) => { this.#write('info', message, details) }
  readonly warn: Write = (message, details) => { this.#write('warn', message, details) }
  readonly error: Write = (message, details) => { this.#write('error', message, details) }

  /** Logs an error that nothing caught. */
  uncaught (error: Error): void {
    if (this.#isMute) print(error)
    else this.error('Uncaught error', { err: error })
  }

  /** A logger for a shutdown callback, with its name. Errors that its own calls throw are the callback's. */
  child (bindings: object): FastifyBaseLogger {
    return attempt(() => this.#log.child(bindings)) ?? this.#log
  }

  /**
   * Before the process exits, drops what the destinations have failed to write, also those of instances that are closed. pino writes the
   * rest on exit, and if that fails again, as on a full disk, a terminal that is gone, or a full pipe, it tries until it succeeds.
   */
  readonly dropUnwritable = (): void => {
    for (const destination of unwritable.keys()) {
      destination.destroy()
      // As pino does if a pipe has lost its reader: exit listeners may still write to it.
      attempt(() => Object.assign(destination, { write: ignore, end: ignore, flushSync: ignore }))
    }
  }

  /** Waits until the lines so far are written. */
  async flush (): Promise<void> {
    await new Promise<void>(resolve => { this.afterFlush(resolve) })
  }

  /** Waits, without a limit, until all lines have been written to the pipes that are full. */
  readonly whenRead = async (): Promise<void> => {
    while ([...unwritable.values()].includes('full')) await new Promise<void>(resolve => { setTimeout(resolve, LOG_CHECK) })
  }

  /**
   * Calls back when the lines so far are written, after LOG_FLUSH at the latest. A time in which the process is stopped hardly counts.
   * pino writes asynchronously, and the rest when the process exits. But that last write may overtake one in progress, and if the reader
   * of a pipe has gone and no write has failed yet, it tries forever. Uses timers only: if errors are thrown again and again, promises
   * do not settle.
   */
  afterFlush (callback: () => void): void {
    let left = LOG_FLUSH
    let sonicBoom: Destination | undefined
    try {
      Promise.resolve(this.#log.flush?.()).catch(() => {})
      sonicBoom = sonicBoomOf(this.#log)
    } catch {
      // The lines that it has collected are lost, as they would be without a flush.
    }
    let isWriting = !this.#isMute && (hasPendingFileIo() || (sonicBoom !== undefined && unwritable.get(sonicBoom) === 'full'))
    const forget = isWriting && sonicBoom !== undefined ? onPause(sonicBoom, () => { isWriting = false }) : () => {}
    let before = now()
    const look = () => {
      if (sonicBoom === undefined) isWriting &&= hasPendingFileIo()
      left -= Math.min(now() - before, LOG_FLUSH * STEP_PART)
      before = now()
      if (isWriting && left > 0) {
        setTimeout(look, LOG_CHECK)
        return
      }
      forget()
      callback()
    }
    look()
  }

  /**
   * Whether logged errors are lost: the level is above `error`, or the destination is destroyed, such as a transport if its worker
   * could not start, or there is no logger. The methods of Fastify's stand-in for one are empty functions.
   */
  get #isMute (): boolean {
    const log = this.#log
    return attempt(() => EMPTY.test(String(log.error)) || log.isLevelEnabled?.('error') === false || streamOf(log)?.destroyed === true) === true
  }

  #write (level: Level, message: string, details: { err?: Error } | undefined): void {
    if (this.#tryWrite(level, message, details) || level !== 'error') return
    // If an error cannot be serialized, only its message is logged.
    const text = inOneLine(message, details)
    if (!this.#tryWrite(level, text, undefined)) toStderr(text)
  }

  #tryWrite (level: Level, message: string, details: object | undefined): boolean {
    if (this.#isMute) return false
    try {
      if (details === undefined) this.#log[level](message)
      else this.#log[level](details, message)
      return true
    } catch {
      return false
    }
  }
}

const ignore = (): void => {}

/** The destinations that cannot be written to, until they have written all: a pipe is full, or the last write has failed. */
const unwritable = new Map<Destination, 'full' | 'failed'>()

const observed = new WeakSet<Destination>()

/** From now on, notes whether it is a full pipe. Leaves no listener on it while it is not. */
function observe (destination: Destination): void {
  if (observed.has(destination)) return
  observed.add(destination)
  const { retryEAGAIN } = destination
  trySet(destination, 'retryEAGAIN', (...args: never[]) => {
    const isRetried = retryEAGAIN.apply(destination, args)
    if (isRetried) note(destination, 'full')
    return isRetried
  })
}

function note (destination: Destination, why: 'full' | 'failed'): void {
  if (!unwritable.has(destination)) {
    const fails = () => { unwritable.set(destination, 'failed') }
    const forget = () => {
      unwritable.delete(destination)
      destination.off('drain', forget).off('close', forget).off(errorMonitor, fails)
    }
    destination.on('drain', forget).on('close', forget).on(errorMonitor, fails)
  }
  unwritable.set(destination, why)
}

/** What waits for each destination. Instances may share one, and Node warns of a leak if it has more than ten listeners. */
const waiters = new WeakMap<Destination, Set<() => void>>()

function paused (this: Destination, error?: unknown): void {
  if (error !== undefined) note(this, 'failed')
  for (const done of waiters.get(this) as Set<() => void>) done()
}

/** Calls back when a destination of pino pauses: it has written all, or failed, or is closed. Returns the undo function. */
function onPause (destination: Destination, done: () => void): () => void {
  const all = waiters.get(destination) ?? new Set()
  waiters.set(destination, all.add(done))
  if (all.size === 1) destination.on('drain', paused).on('error', paused).on('close', paused)
  return () => {
    if (all.delete(done) && all.size === 0) destination.off('drain', paused).off('error', paused).off('close', paused)
  }
}

/** Whether an asynchronous read or write of fs is pending. */
function hasPendingFileIo (): boolean {
  return process.getActiveResourcesInfo().includes('FSReqCallback')
}

/** Where a logger writes to. */
interface Destination extends EventEmitter {
  destroyed?: boolean
  destroy: () => void
  /** Called when a write has failed because a pipe is full: whether to try it again. */
  retryEAGAIN: (...args: never[]) => boolean
}

/** The destination of pino. A logger keeps it, or inherits it, under `pino.symbols.streamSym`. */
function streamOf (log: object | null): Destination | undefined {
  if (log === null) return undefined
  const symbol = Object.getOwnPropertySymbols(log).find(({ description }) => description === 'pino.stream')
  if (symbol === undefined) return streamOf(Object.getPrototypeOf(log) as object | null)
  return (log as Record<symbol, Destination>)[symbol]
}

/** pino's default destination; undefined for any other. */
function sonicBoomOf (log: object): Destination | undefined {
  const stream = streamOf(log)
  return stream !== undefined && 'minLength' in stream ? stream : undefined
}

function inOneLine (message: string, details: { err?: Error } | undefined): string {
  if (details === undefined) return message
  return details.err === undefined ? `${message} ${JSON.stringify(details)}` : `${message}: ${messageOf(details.err)}`
}

/** Prints an error with its stack, as Node does; once, although several instances may note it. */
export function print (error: Error): void {
  if (!printed.has(error)) toStderr(show(error, Infinity))
  printed.add(error)
}

function toStderr (text: string): void {
  // If that fails, there is nowhere left to report it.
  attempt(() => writeSync(2, `${text}\n`))
}
