// The log during a shutdown: if it throws, the shutdown goes on.

import type { FastifyBaseLogger } from 'fastify'
import { writeSync } from 'node:fs'
import { messageOf } from '../values.ts'

type Level = 'debug' | 'info' | 'warn' | 'error'
type Write = (message: string, details?: object) => void

/**
 * Wraps Fastify's logger so that no method throws. A shutdown callback may have destroyed the destination, or a user's logger
 * may have a bug. An error that cannot be logged is then written to stderr.
 */
export class SafeLog {
  readonly #log: FastifyBaseLogger

  constructor (log: FastifyBaseLogger) {
    this.#log = log
  }

  readonly debug: Write = (message, details) => { this.#write('debug', message, details) }
  readonly info: Write = (message, details) => { this.#write('info', message, details) }
  readonly warn: Write = (message, details) => { this.#write('warn', message, details) }
  readonly error: Write = (message, details) => { this.#write('error', message, details) }

  /** A logger for a shutdown callback, with its name. Errors that its own calls throw are the callback's. */
  child (bindings: object): FastifyBaseLogger {
    try {
      return this.#log.child(bindings)
    } catch {
      return this.#log
    }
  }

  #write (level: Level, message: string, details: { err?: Error } | undefined): void {
    // If an error cannot be serialized, only its message is logged.
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
    // There is nowhere left to report it.
  }
}
