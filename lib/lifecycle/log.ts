// The log, as a shutdown uses it: a log that throws stops nothing.

import type { FastifyBaseLogger } from 'fastify'
import { writeSync } from 'node:fs'
import { messageOf } from '../values.ts'

type Level = 'debug' | 'info' | 'warn' | 'error'

/**
 * Fastify's logger, of which no method throws. A destination may have been destroyed by a shutdown callback, or a
 * user's own logger may have a bug: an error that cannot be logged is then written to stderr.
 */
export class SafeLog {
  readonly #log: FastifyBaseLogger

  constructor (log: FastifyBaseLogger) {
    this.#log = log
  }

  debug (message: string, details?: object): void {
    this.#write('debug', message, details)
  }

  info (message: string, details?: object): void {
    this.#write('info', message, details)
  }

  warn (message: string, details?: object): void {
    this.#write('warn', message, details)
  }

  error (message: string, details?: object): void {
    this.#write('error', message, details)
  }

  /** A logger for a shutdown callback, with its name; what its own calls throw is the callback's error. */
  child (bindings: object): FastifyBaseLogger {
    try {
      return this.#log.child(bindings)
    } catch {
      return this.#log
    }
  }

  #write (level: Level, message: string, details: { err?: Error } | undefined): void {
    // An error that cannot be serialized is logged by its message.
    if (this.#tryWrite(level, message, details) || level !== 'error') return
    const text = details?.err === undefined ? message : `${message}: ${messageOf(details.err)}`
    if (!this.#tryWrite(level, text, undefined)) toStderr(text)
  }

  #tryWrite (level: Level, message: string, details: object | undefined): boolean {
    try {
      if (details === undefined) this.#log[level](message)
      else this.#log[level](details, message)
      return true
    } catch {
      return false
    }
  }
}

function toStderr (message: string): void {
  try {
    writeSync(2, `${message}\n`)
  } catch {
    // There is no place left to say it.
  }
}
