// A session that speaks HTTP/2.

import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import type { Asked } from './http1.ts'
import type { Answer } from './answer.ts'
import { once } from 'node:events'
import { connect, constants } from 'node:http2'
import { monotonic } from './trace.ts'

export interface Stream {
  stream: ClientHttp2Stream
  answer: Answer
  answered: Promise<Answer>
}

export class Http2 {
  readonly session: ClientHttp2Session
  readonly connected: Promise<boolean>
  #hasConnected = false
  #sent = 0
  #error: string | undefined
  #isReset = false
  readonly #open = new Set<Answer>()
  /** Whether the server has said GOAWAY. */
  isLast = false

  constructor (port: number, isTls: boolean) {
    this.session = connect(`${isTls ? 'https' : 'http'}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    this.connected = new Promise(resolve => {
      // Its 'connect' also comes before the server has accepted it.
      this.session.once('remoteSettings', () => {
        this.#hasConnected = true
        resolve(true)
      })
      this.session.once('close', () => { resolve(false) })
    })
    // After GOAWAY, Node hides a reset of the connection: each stream ends without an error, as if all of it had been received.
    this.session.once('connect', (_session, socket) => {
      socket.prependListener('error', () => { this.#isReset = true })
    })
    this.session.on('error', error => { this.#error = (error as NodeJS.ErrnoException).code ?? error.message })
    this.session.on('goaway', () => { this.isLast = true })
  }

  get isOpen (): boolean {
    return !this.session.closed && !this.session.destroyed && !this.isLast
  }

  /** Opens a stream. Its user ends it, if it has a body. */
  ask (asked: Asked, method: 'GET' | 'POST'): Stream {
    const answer: Answer = { ...asked, before: this.#sent++, sentAt: monotonic(), startedAt: Infinity, endedAt: Infinity, outcome: 'none' }
    this.#open.add(answer)
    const end = (): void => {
      this.#open.delete(answer)
      answer.endedAt = Math.min(answer.endedAt, monotonic())
    }
    let stream: ClientHttp2Stream
    try {
      stream = this.session.request(
        { ':path': asked.url, ':method': method, ...method === 'POST' && { 'content-type': 'application/octet-stream' } }, { endStream: method === 'GET' })
    } catch (error) {
      // The session has been closed.
      end()
      answer.error = (error as NodeJS.ErrnoException).code ?? String(error)
      answer.outcome = 'unconnected'
      return { stream: undefined as never, answer, answered: Promise.resolve(answer) }
    }
    let isEnded = false
    answer.body = ''
    stream.setEncoding('latin1')
    stream.on('response', headers => {
      answer.startedAt = monotonic()
      answer.status = Number(headers[':status'])
    })
    stream.on('data', (chunk: string) => { answer.body += chunk })
    stream.on('end', () => { isEnded = !this.#isReset })
    stream.on('error', error => { answer.error = (error as NodeJS.ErrnoException).code ?? error.message })
    const answered = once(stream, 'close').catch(async () => { if (!stream.closed) await once(stream, 'close') }).then(() => {
      end()
      const { rstCode } = stream
      if (rstCode !== undefined && rstCode !== 0) answer.error = nameOf(rstCode)
      else if (this.#isReset) answer.error = 'ECONNRESET'
      else if (this.#error !== undefined) answer.error = this.#error
      if (answer.outcome === 'left') return answer
      if (isEnded && answer.status !== undefined && rstCode === constants.NGHTTP2_NO_ERROR) answer.outcome = 'whole'
      else if (answer.status !== undefined) Object.assign(answer, { outcome: 'part', unread: stream.readableLength })
      else if (!this.#hasConnected) answer.outcome = 'unconnected'
      return answer
    })
    return { stream, answer, answered }
  }

  /** The client disconnects. */
  leave (): void {
    for (const answer of this.#open) answer.outcome = 'left'
    this.session.destroy()
  }

  /** Ends what is still open after a run. Unlike a client that disconnects, it has wanted an answer. */
  destroy (): void {
    this.session.destroy()
  }
}

function nameOf (rstCode: number): string {
  const names = ['NO_ERROR', 'PROTOCOL_ERROR', 'INTERNAL_ERROR', 'FLOW_CONTROL_ERROR', 'SETTINGS_TIMEOUT', 'STREAM_CLOSED', 'FRAME_SIZE_ERROR', 'REFUSED_STREAM', 'CANCEL']
  return names[rstCode] ?? String(rstCode)
}
