// The sockets of an attacker: many at a time, each opened again as soon as it has closed. It counts what comes back.

import type { Socket } from 'node:net'
import type { Protocol } from './target.ts'
import { EventEmitter } from 'node:events'
import { connect } from 'node:net'
import { frameReader, TYPES } from '../http2.ts'

export interface Counts {
  connections: number
  /** Open at the same time, at most. */
  open: number
  /** Messages sent, as each attack counts them: requests, streams, frames, bytes. */
  sent: number
  /** Answers by their status. */
  answers: Record<string, number>
  errors: Record<string, number>
}

/** Connections that are being opened at the same time: more would overflow the backlog, and be delayed by the kernel. */
const MOST_OPENING = 200
/** Milliseconds until a refused client tries again. */
const AFTER_REFUSAL = 50
/** Each loopback address has its own ports. */
const ADDRESSES = 50

export class Crowd {
  readonly counts: Counts = { connections: 0, open: 0, sent: 0, answers: {}, errors: {} }
  readonly #port: number
  readonly #protocol: Protocol
  /** Tells by 'full' that as many have opened as are to be kept. */
  readonly events = new EventEmitter()
  #isStopped = false
  #open = 0
  #opening = 0
  readonly #waiting: Array<() => void> = []
  readonly #sockets = new Set<Socket>()

  constructor (port: number, protocol: Protocol) {
    this.#port = port
    this.#protocol = protocol
  }

  /**
   * Keeps this number of connections.
   * @param use is called with each one that has opened
   * @param answered is called when it has received answers over HTTP/1
   */
  keep (size: number, use: (socket: Socket) => void, answered: (socket: Socket, count: number) => void = () => {}): void {
    let attempted = 0
    const again = (): void => {
      if (this.#isStopped) return
      if (this.#opening >= MOST_OPENING) {
        this.#waiting.push(again)
        return
      }
      this.#opening++
      const socket = connect({ port: this.#port, host: '127.0.0.1', localAddress: `127.0.0.${1 + attempted++ % ADDRESSES}` })
      this.#sockets.add(socket)
      let isOpen = false
      const opened = (): void => {
        this.#opening--
        this.#waiting.shift()?.()
      }
      socket.on('connect', () => {
        isOpen = true
        this.counts.connections++
        this.counts.open = Math.max(this.counts.open, ++this.#open)
        opened()
        if (this.counts.connections === size) this.events.emit('full')
        if (this.#protocol !== 'h2c') this.#countHttp1(socket, answered)
        else this.#countHttp2(socket)
        use(socket)
      })
      socket.on('error', ({ code = 'error' }: NodeJS.ErrnoException) => { this.counts.errors[code] = (this.counts.errors[code] ?? 0) + 1 })
      socket.on('close', () => {
        this.#sockets.delete(socket)
        if (isOpen) this.#open--
        else opened()
        if (isOpen) setImmediate(again)
        else setTimeout(again, AFTER_REFUSAL)
      })
    }
    for (let index = 0; index < size; index++) again()
  }

  /** Calls back for each open connection at an interval. */
  each (milliseconds: number, use: (socket: Socket) => void): void {
    const timer = setInterval(() => {
      if (this.#isStopped) clearInterval(timer)
      for (const socket of this.#sockets) if (socket.readyState === 'open') use(socket)
    }, milliseconds)
  }

  /** Writes what `next` returns as fast as the other end reads, until the connection closes. */
  flood (socket: Socket, next: () => Buffer | string): void {
    const write = (): void => {
      if (socket.destroyed || this.#isStopped) return
      this.counts.sent++
      socket.write(next())
      if (socket.writableNeedDrain) socket.once('drain', write)
      else setImmediate(write)
    }
    write()
  }

  #answered (status: string): void {
    this.counts.answers[status] = (this.counts.answers[status] ?? 0) + 1
  }

  #countHttp1 (socket: Socket, answered: (socket: Socket, count: number) => void): void {
    let rest = ''
    socket.on('data', (chunk: Buffer) => {
      const text = rest + chunk.toString('latin1')
      const statuses = text.match(/(?<=HTTP\/1\.1 )\d{3}/g) ?? []
      for (const status of statuses) this.#answered(status)
      answered(socket, statuses.length)
      // A status line may be split; this is too short for a whole one.
      rest = text.slice(-11)
    })
  }

  /** Of HTTP/2, only the first octet of a HEADERS frame is read: the status 200 is one of the static table. */
  #countHttp2 (socket: Socket): void {
    socket.on('data', frameReader(({ type, payload }) => {
      if (type === TYPES.headers) this.#answered(payload[0] === 0x88 ? '200' : 'other')
      if (type === TYPES.goaway) this.#answered('GOAWAY')
    }))
  }

  stop (): void {
    this.#isStopped = true
    for (const socket of this.#sockets) socket.destroy()
  }
}
