// A connection that speaks HTTP/1. Not node:http, which hides what is on the wire, and does not pipeline.

import type { Socket } from 'node:net'
import type { Answer } from './answer.ts'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { monotonic } from './trace.ts'

/** What is known of an answer as it begins. */
export type Asked = Pick<Answer, 'client' | 'url' | 'connection'>

interface Pending {
  answer: Answer
  resolve: (answer: Answer) => void
}

export class Http1 {
  readonly socket: Socket
  /** The socket below TLS, if there is TLS. */
  readonly #raw: Socket
  readonly connected: Promise<boolean>
  /** The requests that wait for an answer, oldest first. */
  readonly #pending: Pending[] = []
  #sent = 0
  #text = ''
  #isClosed = false
  /** Whether an answer has said `Connection: close`. */
  isLast = false
  #error: string | undefined
  #hasConnected = false

  constructor (port: number, isTls: boolean) {
    this.#raw = connect({ port, host: '127.0.0.1' })
    this.socket = isTls ? connectTls({ socket: this.#raw, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }) : this.#raw
    this.socket.setNoDelay(true).setEncoding('latin1')
    this.connected = new Promise(resolve => {
      this.socket.once(isTls ? 'secureConnect' : 'connect', () => {
        this.#hasConnected = true
        resolve(true)
      })
      this.socket.once('close', () => { resolve(false) })
    })
    this.socket.on('error', error => { this.#error = (error as NodeJS.ErrnoException).code ?? error.message })
    this.socket.on('data', (chunk: string) => { this.#read(chunk) })
    this.socket.on('end', () => { this.#end() })
    this.socket.on('close', () => { this.#end() })
  }

  get isOpen (): boolean {
    return !this.#isClosed && this.socket.writable
  }

  /** Expects the answer to a request. */
  async ask (asked: Asked, write: () => void | Promise<void>): Promise<Answer> {
    const answer: Answer = { ...asked, before: this.#sent++, sentAt: Infinity, startedAt: Infinity, endedAt: Infinity, outcome: 'none' }
    const answered = new Promise<Answer>(resolve => { this.#pending.push({ answer, resolve }) })
    if (this.#isClosed) this.#end()
    await write()
    answer.sentAt = Math.min(answer.endedAt, monotonic())
    return await answered
  }

  /** The client disconnects. */
  leave (isReset = false): void {
    for (const { answer } of this.#pending) answer.outcome = 'left'
    if (!isReset || !this.#hasConnected) {
      this.socket.destroy()
      return
    }
    // Deferred: Node crashes if the socket below TLS is reset while TLS reads from it.
    setImmediate(() => {
      this.#raw.resetAndDestroy()
      this.socket.destroy()
    })
  }

  /** Ends what is still open after a run. Unlike a client that disconnects, it has wanted an answer. */
  destroy (): void {
    this.socket.destroy()
  }

  #read (chunk: string): void {
    this.#text += chunk
    for (;;) {
      const [first] = this.#pending
      if (first === undefined || this.#text === '') return
      const { answer, resolve } = first
      answer.startedAt = Math.min(answer.startedAt, monotonic())
      const message = parse(this.#text)
      if (message === undefined) return
      this.#text = this.#text.slice(message.length)
      this.#pending.shift()
      const { status, body, isLast } = message
      Object.assign(answer, { outcome: answer.outcome === 'left' ? 'left' : 'whole', endedAt: monotonic(), status, body, isLast })
      this.isLast = isLast
      resolve(answer)
    }
  }

  #end (): void {
    this.#isClosed = true
    for (const { answer, resolve } of this.#pending.splice(0)) {
      answer.endedAt = monotonic()
      if (answer.outcome !== 'left') answer.outcome = !this.#hasConnected ? 'unconnected' : this.#text === '' ? 'none' : 'part'
      if (this.#error !== undefined) answer.error = this.#error
      // Only the first one can have begun.
      const head = headOf(this.#text)
      if (head !== undefined) Object.assign(answer, { status: head.status, isLast: head.isLast })
      this.#text = ''
      resolve(answer)
    }
  }
}

interface Message {
  status: number
  isLast: boolean
  body: string
  length: number
}

interface Head extends Pick<Message, 'status' | 'isLast'> {
  head: string
  /** Where the body begins. */
  start: number
}

function headOf (text: string): Head | undefined {
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) return undefined
  const head = text.slice(0, end)
  return { head, start: end + 4, status: Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]), isLast: /\r\nconnection: close/i.test(head) }
}

/** The first message, if it is whole. */
function parse (text: string): Message | undefined {
  const read = headOf(text)
  if (read === undefined) return undefined
  const { head, start, status, isLast } = read
  const size = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
  if (size !== undefined) {
    const end = start + Number(size)
    return text.length < end ? undefined : { status, isLast, body: text.slice(start, end), length: end }
  }
  // Node's own answer to what is no request. Nothing follows it.
  if (!/\r\ntransfer-encoding: chunked/i.test(head)) return { status, isLast, body: text.slice(start), length: text.length }
  let body = ''
  for (let at = start; ;) {
    const lineEnd = text.indexOf('\r\n', at)
    if (lineEnd < 0) return undefined
    const length = Number.parseInt(text.slice(at, lineEnd), 16)
    const end = lineEnd + 2 + length
    if (text.length < end + 2) return undefined
    if (length === 0) return { status, isLast, body, length: end + 2 }
    body += text.slice(lineEnd + 2, end)
    at = end + 2
  }
}
