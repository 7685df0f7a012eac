// Clients that behave, beside an attack: each sends one request after another, over a kept connection or over a new one.

import type { ClientHttp2Session } from 'node:http2'
import type { Protocol } from './target.ts'
import { Agent, get } from 'node:http'
import { connect } from 'node:http2'
import { Agent as SecureAgent, get as getSecure } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

export interface Answer {
  /** When it was sent, and when its answer or its failure came; milliseconds since 1970, from a clock that does not step. */
  sent: number
  ended: number
  /** A whole answer: its status and body. */
  status?: number
  body?: string
  /** A failure: its code or message. */
  failure?: string
}

const CLIENTS = 8
const PAUSE = 20
/** Milliseconds after which a request counts as lost. */
const PATIENCE = 15_000

type Send = () => Promise<Pick<Answer, 'status' | 'body' | 'failure'>>

export class HonestClients {
  readonly answers: Answer[] = []
  readonly #port: number
  readonly #protocol: Protocol
  #isStopped = false
  readonly #clients: Promise<void>[]

  constructor (port: number, protocol: Protocol) {
    this.#port = port
    this.#protocol = protocol
    this.#clients = Array.from({ length: CLIENTS }, async (_, index) => { await this.#run(this.#client(index % 2 === 0)) })
  }

  async #run (send: Send): Promise<void> {
    const now = (): number => performance.timeOrigin + performance.now()
    while (!this.#isStopped) {
      const sent = now()
      const outcome = await Promise.race([send(), sleep(PATIENCE, { failure: 'no answer' }, { ref: false })])
      this.answers.push({ sent, ended: now(), ...outcome })
      await sleep(PAUSE)
    }
  }

  #client (keeps: boolean): Send {
    if (this.#protocol === 'h2c') return this.#http2(keeps)
    const isSecure = this.#protocol === 'https'
    const options = { keepAlive: keeps, maxSockets: 1, rejectUnauthorized: false }
    const agent = isSecure ? new SecureAgent(options) : new Agent(options)
    return async () => await new Promise(resolve => {
      const fail = ({ code, message }: NodeJS.ErrnoException): void => { resolve({ failure: code ?? message }) }
      const request = (isSecure ? getSecure : get)({ host: '127.0.0.1', port: this.#port, agent }, response => {
        let body = ''
        response.setEncoding('utf8').on('data', (chunk: string) => { body += chunk }).on('error', fail)
        response.on('end', () => { resolve({ status: response.statusCode ?? 0, body }) })
      })
      request.on('error', fail)
    })
  }

  #http2 (keeps: boolean): Send {
    let session: ClientHttp2Session | undefined
    return async () => await new Promise(resolve => {
      let status = 0
      let body = ''
      let failure: string | undefined
      let hasEnded = false
      const fail = ({ code, message }: NodeJS.ErrnoException): void => { failure ??= code === 'ERR_HTTP2_STREAM_ERROR' ? message : code ?? message }
      if (session === undefined || session.closed || session.destroyed) {
        session = connect(`http://127.0.0.1:${this.#port}`)
        session.on('error', () => {})
      }
      // Before the stream's, which says less.
      session.once('error', fail)
      const stream = session.request({ ':path': '/' })
      stream.on('response', headers => { status = headers[':status'] ?? 0 })
      stream.setEncoding('utf8').on('data', (chunk: string) => { body += chunk })
      stream.on('end', () => { hasEnded = true }).on('error', fail).on('close', () => {
        session?.off('error', fail)
        if (!keeps) session?.close()
        resolve(failure === undefined && hasEnded && status > 0 ? { status, body } : { failure: failure ?? 'closed' })
      })
    })
  }

  async stop (): Promise<void> {
    this.#isStopped = true
    await Promise.all(this.#clients)
  }
}
