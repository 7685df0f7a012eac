// The log during a shutdown: if it throws, the shutdown goes on; if there is none, errors go to stderr.

import type { FastifyBaseLogger } from 'fastify'
import { writeSync } from 'node:fs'
import process from 'node:process'
import { now, setTimeout } from '../clock.ts'
import { LOG_FLUSH } from '../times.ts'
import { messageOf, show } from '../values.ts'

type Level = 'debug' | 'info' | 'warn' | 'error'
type Write = (message: string, details?: object) => void

/**
 * Wraps Fastify's logger so that no method throws. A shutdown callback may have destroyed the destination, or a user's logger
 * may have a bug. An error that cannot be logged is then written to stderr, and so is every error if there is no logger.
 */
export class SafeLog {
  readonly #log: FastifyBaseLogger & { flush?: () => unknown }

  constructor (log: FastifyBaseLogger) {
    this.#log = log
  }

  readonly debug: Write = (message, details) => { this.#write('debug', message, details) }
  readonly info: Write = (message, details) => { this.#write('info', message, details) }
  readonly warn: Write = (message, details) => { this.#write('warn', message, details) }
  readonly error: Write = (message, details) => { this.#write('error', message, details) }

  /** Logs an error that nothing caught. Without a logger, stderr gets its stack, as Node prints it. */
  uncaught (error: Error): void {
    if (this.#isMute) toStderr(show(error, Infinity))
    else this.error('Uncaught error', { err: error })
  }

  /** A logger for a shutdown callback, with its name. Errors that its own calls throw are the callback's. */
  child (bindings: object): FastifyBaseLogger {
    try {
      return this.#log.child(bindings)
    } catch {
      return this.#log
    }
  }

  /**
   * Waits until the lines so far are written. pino's destination writes what is left when the process exits, but it may overtake
   * a write in progress, and if the reader of a pipe has gone and no write has failed yet, it tries forever.
   */
  async flush (): Promise<void> {
    if (this.#log.flush === undefined) return
    this.startFlush()
    await new Promise<void>(resolve => { afterFileWrites(now() + LOG_FLUSH, resolve) })
  }

  /** Makes a logger that collects its lines write them. */
  startFlush (): void {
    try {
      this.#log.flush?.()
    } catch {
      // Lost, as they would be without a flush.
    }
  }

  /** Fastify's default logger, and pino at level `silent`, have the same empty function for all levels. */
  get #isMute (): boolean {
    return this.#log.fatal === this.#log.info
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

/**
 * Calls back when no file is being written asynchronously, or at `end`, on the clock of now(). That is how pino writes by default,
 * and it tells nobody when it has. Uses timers only: if errors are thrown again and again, promises do not settle.
 */
export function afterFileWrites (end: number, callback: () => void): void {
  if (!process.getActiveResourcesInfo().includes('FSReqCallback') || now() >= end) callback()
  else setTimeout(afterFileWrites, 1, end, callback)
}

function inOneLine (message: string, details: { err?: Error } | undefined): string {
  if (details === undefined) return message
  return details.err === undefined ? `${message} ${show(details)}` : `${message}: ${messageOf(details.err)}`
}

function toStderr (text: string): void {
  try {
    writeSync(2, `${text}\n`)
  } catch {
    // There is nowhere left to report it.
  }
}
