// Cutting off who took too long: its client is told where it still can be, and it is named in log and report.

import type { FastifyError } from '@fastify/error'
import type { FastifyBaseLogger, FastifyReply } from 'fastify'
import type { Http2ServerResponse } from 'node:http2'
import type { InFlightEntry } from '../types/index.ts'
import type { InFlight } from './in-flight.ts'
import type { PhaseClock } from './phase.ts'
import { constants } from 'node:http2'
import { errorBody } from './errors.ts'
import { describe } from './in-flight.ts'
import { sayClose } from './pipeline.ts'

export class Cuts {
  readonly #phase: PhaseClock
  readonly #inFlight: InFlight
  readonly #log: FastifyBaseLogger
  readonly #logged = new WeakSet<FastifyReply>()
  readonly #reported = new Map<object, InFlightEntry>()

  constructor (phase: PhaseClock, inFlight: InFlight, log: FastifyBaseLogger) {
    this.#phase = phase
    this.#inFlight = inFlight
    this.#log = log
  }

  /** Who was cut since the shutdown began. */
  get list (): InFlightEntry[] {
    return [...this.#reported.values()]
  }

  /** Ends a request in its handler's place. The handler itself cannot be stopped, and counts until it settles. */
  cut (reply: FastifyReply, error: FastifyError): void {
    this.#name(reply, error)
    if (this.#inFlight.isOrphan(reply)) {
      // Answered before, but not read.
      if (!reply.raw.writableFinished) abort(reply)
    } else if (reply.sent || reply.raw.headersSent) {
      abort(reply)
      // An injected one has no connection that tells.
      this.#inFlight.orphan(reply)
    } else {
      const { raw } = reply.request
      if (raw.httpVersionMajor !== 2) sayClose(raw.socket, false)
      // As text: an Error would go through the user's error handler and be logged a second time.
      reply.code(error.statusCode as number).type('application/json; charset=utf-8').send(errorBody(error))
      this.#inFlight.abandon(reply)
    }
  }

  /** Cuts everybody who is in flight; background work can only be named. */
  cutAll (error: FastifyError): void {
    for (const reply of this.#inFlight.replies()) this.cut(reply, error)
    this.#nameTasks(error)
  }

  /** Names everybody who is in flight, without doing anything about it. */
  nameAll (error: FastifyError): void {
    for (const reply of this.#inFlight.replies()) this.#name(reply, error)
    this.#nameTasks(error)
  }

  #nameTasks (error: FastifyError): void {
    for (const task of this.#inFlight.listTasks()) {
      this.#reported.set(task, task)
      this.#log.error({ ...task, code: error.code }, `Background work cut: ${task.name}`)
    }
  }

  #name (reply: FastifyReply, error: FastifyError): void {
    const entry = describe(reply)
    if (this.#phase.current !== 'running' && !this.#reported.has(reply)) this.#reported.set(reply, entry)
    if (this.#logged.has(reply)) return
    this.#logged.add(reply)
    this.#log.error({ ...entry, code: error.code }, `Request cut: ${error.message}`)
  }
}

function abort (reply: FastifyReply): void {
  if (reply.request.raw.httpVersionMajor === 2) {
    (reply.raw as unknown as Http2ServerResponse).stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  } else {
    reply.raw.destroy()
  }
}
