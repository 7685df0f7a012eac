// The clients of a run. Each of them does what the scenario says, until it is done, or until the service has gone.

import type { Answer } from './answer.ts'
import type { Burst, Client, Half, Leaver, Loop, Prober, Reader, Scenario, Uploader } from './scenario.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import { Http1 } from './http1.ts'
import { Http2 } from './http2.ts'
import { isTls, urlOf } from './scenario.ts'
import { monotonic } from './trace.ts'
import { visitWebSocket, type WebSocketVisit } from './websocket.ts'

/** How long clients may read what they have got, after the service has gone. */
const PATIENCE = 5_000

export interface Crowd {
  answers: Answer[]
  webSockets: WebSocketVisit[]
  /** Ends the clients that are still there. */
  end: () => Promise<void>
}

/** The body of a request with one, without content. */
function headOf (url: string, length?: number): string {
  const body = length === undefined ? [] : ['Content-Type: application/octet-stream', `Content-Length: ${length}`]
  return [`${length === undefined ? 'GET' : 'POST'} ${url} HTTP/1.1`, 'Host: test', ...body, '', ''].join('\r\n')
}

class Person {
  readonly #crowd: Gathering
  readonly #client: Client
  readonly #index: number
  #connections = 0
  #requests = 0

  constructor (crowd: Gathering, client: Client, index: number) {
    this.#crowd = crowd
    this.#client = client
    this.#index = index
  }

  async visit (): Promise<void> {
    const client = this.#client
    await this.#crowd.pause(client.at)
    if (this.#crowd.isOver) return
    switch (client.kind) {
    case 'loop': return await this.#loop(client)
    case 'burst': return await this.#burst(client)
    case 'leaver': return await this.#leave(client)
    case 'reader': return await this.#read(client)
    case 'uploader': return await this.#upload(client)
    case 'half': return await this.#half(client)
    case 'prober': return await this.#probe(client)
    case 'websocket': return await this.#crowd.talk(client, this.#index)
    }
  }

  #connect (): Http1 {
    this.#connections++
    return this.#crowd.connect1(this.#client.to)
  }

  #open (): Http2 {
    this.#connections++
    return this.#crowd.connect2(this.#client.to)
  }

  #asked (url = urlOf(this.#index, this.#requests++)): Pick<Answer, 'client' | 'url' | 'connection'> {
    return { client: this.#index, url, connection: this.#connections }
  }

  /** Sends one request without a body, and waits for the answer. */
  async #get (connection: Http1 | Http2, url?: string): Promise<Answer> {
    const asked = this.#asked(url)
    const answered = connection instanceof Http1
      ? connection.ask(asked, () => { connection.socket.write(headOf(asked.url)) })
      : connection.ask(asked, 'GET').answered
    return this.#crowd.note(await answered)
  }

  #visit (): Http1 | Http2 {
    return this.#client.http === 2 ? this.#open() : this.#connect()
  }

  async #loop ({ pause }: Loop): Promise<void> {
    let connection = this.#visit()
    for (;;) {
      const { outcome } = await this.#get(connection)
      if (this.#crowd.isOver || outcome === 'unconnected') break
      await this.#crowd.pause(pause)
      if (this.#crowd.isOver) break
      if (connection.isLast || !connection.isOpen) {
        connection.leave()
        connection = this.#visit()
      }
    }
    connection.leave()
  }

  async #burst ({ works, http }: Burst): Promise<void> {
    if (http === 2) {
      const session = this.#open()
      await Promise.all(works.map(async () => await this.#get(session)))
      session.leave()
      return
    }
    const connection = this.#connect()
    if (!await connection.connected) return await this.#nobody(connection)
    // In one packet.
    connection.socket.cork()
    const answers = works.map(async () => await this.#get(connection))
    connection.socket.uncork()
    await Promise.all(answers)
    connection.leave()
  }

  /** There is no connection, and so no answer. */
  async #nobody (connection: Http1): Promise<void> {
    await this.#get(connection)
  }

  async #leave ({ work, body, bytes, after, reset, http }: Leaver): Promise<void> {
    void work
    const url = this.#asked()
    if (http === 2) {
      const session = this.#open()
      const { stream, answer, answered } = session.ask(url, body > 0 ? 'POST' : 'GET')
      if (answer.outcome !== 'unconnected') {
        answer.outcome = 'left'
        if (body > 0) stream.write('x'.repeat(Math.min(bytes ?? body, body)))
        if (body > 0 && bytes === undefined) stream.end()
        await this.#crowd.pause(after)
        if (reset) stream.close(8)
        else session.leave()
      }
      this.#crowd.note(await answered)
      session.leave()
      return
    }
    const connection = this.#connect()
    const all = headOf(url.url, body > 0 ? body : undefined) + 'x'.repeat(body)
    const answered = connection.ask(url, () => { connection.socket.write(all.slice(0, bytes)) })
    if (await connection.connected) await this.#crowd.pause(after)
    connection.leave(reset)
    this.#crowd.note(await answered)
  }

  async #read ({ pause, http }: Reader): Promise<void> {
    if (http === 2) {
      const session = this.#open()
      const { stream, answered } = session.ask(this.#asked(), 'GET')
      if (stream !== undefined) this.#slow(stream, pause)
      this.#crowd.note(await answered)
      session.leave()
      return
    }
    const connection = this.#connect()
    this.#slow(connection.socket, pause)
    await this.#get(connection)
    connection.leave()
  }

  #slow (stream: NodeJS.ReadableStream, pause: number): void {
    stream.on('data', () => {
      stream.pause()
      setTimeout(() => { stream.resume() }, this.#crowd.isOver ? 0 : pause)
    })
  }

  async #upload ({ work, parts, part, pause, http }: Uploader): Promise<void> {
    void work
    const asked = this.#asked()
    const send = async (write: (text: string) => void, isOpen: () => boolean): Promise<void> => {
      for (let sent = 0; sent < parts && isOpen(); sent++) {
        write('x'.repeat(part))
        if (sent < parts - 1) await this.#crowd.pause(pause)
      }
    }
    if (http === 2) {
      const session = this.#open()
      const { stream, answer, answered } = session.ask(asked, 'POST')
      if (stream !== undefined) {
        answer.sentAt = Infinity
        await send(text => { stream.write(text) }, () => !stream.closed && !stream.destroyed)
        if (!stream.closed) answer.sentAt = monotonic()
        stream.end()
      }
      this.#crowd.note(await answered)
      session.leave()
      return
    }
    const connection = this.#connect()
    const { socket } = connection
    this.#crowd.note(await connection.ask(asked, async () => {
      if (!await connection.connected) return
      socket.write(headOf(asked.url, parts * part))
      await send(text => { socket.write(text) }, () => connection.isOpen)
    }))
    connection.leave()
  }

  async #half ({ bytes }: Half): Promise<void> {
    const connection = this.#connect()
    if (!await connection.connected) return
    connection.socket.write(headOf('/half').slice(0, bytes))
    await this.#crowd.over
    connection.leave()
  }

  async #probe ({ pause }: Prober): Promise<void> {
    for (let number = 0; ; number++) {
      const connection = this.#visit()
      const { outcome } = await this.#get(connection, number % 2 === 0 ? '/ready' : '/health')
      connection.leave()
      if (this.#crowd.isOver || outcome === 'unconnected') return
      await this.#crowd.pause(pause)
      if (this.#crowd.isOver) return
    }
  }
}

class Gathering implements Crowd {
  readonly answers: Answer[] = []
  readonly webSockets: WebSocketVisit[] = []
  readonly over: Promise<void>
  isOver = false
  #tellOver!: () => void
  readonly #ports: readonly number[]
  readonly #isTls: boolean
  readonly #connections = new Set<Http1 | Http2>()
  readonly #people: Promise<unknown>

  constructor (scenario: Scenario, ports: readonly number[]) {
    this.#ports = ports
    this.#isTls = isTls(scenario)
    this.over = new Promise(resolve => { this.#tellOver = resolve })
    this.#people = Promise.all(scenario.clients.map(async (client, index) => { await new Person(this, client, index).visit() }))
  }

  note (answer: Answer): Answer {
    this.answers.push(answer)
    return answer
  }

  /** Waits, at most until the end of the run. */
  async pause (ms: number): Promise<void> {
    if (ms > 0 && !this.isOver) await Promise.race([sleep(ms, undefined, { ref: false }), this.over])
  }

  connect1 (to: number): Http1 {
    return this.#keep(new Http1(this.#ports[to] as number, this.#isTls))
  }

  connect2 (to: number): Http2 {
    return this.#keep(new Http2(this.#ports[to] as number, this.#isTls))
  }

  #keep<C extends Http1 | Http2> (connection: C): C {
    this.#connections.add(connection)
    return connection
  }

  async talk (client: Extract<Client, { kind: 'websocket' }>, index: number): Promise<void> {
    const url = `${this.#isTls ? 'wss' : 'ws'}://127.0.0.1:${this.#ports[client.to]}/websocket`
    this.webSockets.push(await visitWebSocket(client, index, url, this.over))
  }

  async end (): Promise<void> {
    this.isOver = true
    this.#tellOver()
    // What the service has sent before it went is read.
    await within(this.#people)
    for (const connection of this.#connections) connection.destroy()
    if (!await within(this.#people)) throw new Error('A client does not end')
  }
}

/** Whether it is done within PATIENCE. */
async function within (work: Promise<unknown>): Promise<boolean> {
  const over = new AbortController()
  const isDone = await Promise.race([work.then(() => true), sleep(PATIENCE, false, { signal: over.signal }).catch(() => false)])
  over.abort()
  return isDone
}

/** Sends in the clients. */
export function gather (scenario: Scenario, ports: readonly number[]): Crowd {
  return new Gathering(scenario, ports)
}
