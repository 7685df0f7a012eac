// Clients that send requests to a service while it restarts, over each protocol, and repeat them only as clients do.

import type { AgentOptions } from 'node:https'
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import { Agent, get } from 'node:http'
import { connect, constants } from 'node:http2'
import { Agent as SecureAgent, get as getSecure } from 'node:https'
import { connect as connectSocket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectSecure } from 'node:tls'

export type LoadProtocol = 'http' | 'https' | 'h2c' | 'h2'

/** A port of 127.0.0.1, or the path of a Unix socket. */
export type LoadTarget = number | string

/** What becomes of a request that is sent once. `unanswered`: the client knows that it may send it again, and why. */
type Outcome = { body: string } | { unanswered: string } | { lost: string }

interface Client {
  send: (path: string) => Promise<Outcome>
  close: () => void
}

const CLIENTS = 24

/** Sends requests until stopped, one after another; `answers` are their bodies, and `lost` is what else happened to them. */
export class Load {
  readonly answers: string[] = []
  readonly lost: string[] = []
  /** How many requests were sent again, by reason. */
  readonly repeated: Record<string, number> = {}
  readonly #stop = new AbortController()
  readonly #clients: Promise<void>[]

  constructor (target: LoadTarget, protocol: LoadProtocol) {
    const isHttp2 = protocol === 'h2' || protocol === 'h2c'
    const isSecure = protocol === 'h2' || protocol === 'https'
    const open = (keeps: boolean): Client => isHttp2 ? new Http2Client(target, isSecure, keeps) : new Http1Client(target, isSecure, keeps)
    // With HTTP/2, requests share a connection.
    const shared = Array.from({ length: 4 }, () => open(true))
    this.#clients = Array.from({ length: CLIENTS }, async (_, index) => {
      const keeps = index % 2 === 0
      const client = keeps && isHttp2 ? shared[index % 8 / 2] as Client : open(keeps)
      await this.#run(client, keeps ? 'kept connection' : 'new connection', index % 8 < 2 ? '/slow' : '/')
    })
  }

  async #run (client: Client, kind: string, path: string): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await this.#request(client, kind, path)
      await sleep(Math.random() * 10)
    }
    client.close()
  }

  async #request (client: Client, kind: string, path: string): Promise<void> {
    const outcome = await client.send(path)
    if ('body' in outcome) {
      this.answers.push(outcome.body)
    } else if ('lost' in outcome) {
      this.lost.push(`${kind}: ${outcome.lost}`)
    } else {
      const reason = `${kind}: ${outcome.unanswered}`
      this.repeated[reason] = (this.repeated[reason] ?? 0) + 1
      await this.#request(client, kind, path)
    }
  }

  /** How many processes have answered. */
  get processes (): number {
    return new Set(this.answers).size
  }

  async stop (): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#clients)
  }
}

class Http1Client implements Client {
  readonly #agent: Agent
  readonly #get: typeof get
  readonly #target: object

  constructor (target: LoadTarget, isSecure: boolean, keepAlive: boolean) {
    const options: AgentOptions = { keepAlive, maxSockets: 1, rejectUnauthorized: false }
    this.#agent = isSecure ? new SecureAgent(options) : new Agent(options)
    this.#get = isSecure ? getSecure : get
    this.#target = typeof target === 'string' ? { socketPath: target } : { host: '127.0.0.1', port: target }
  }

  /**
   * A kept connection may be closed just as the client sends on it. HTTP/1.1 has no remedy but another request, which clients send if
   * the connection was used before. Here, that happens only if the client pauses for longer than an idle connection is kept.
   */
  async send (path: string): Promise<Outcome> {
    return await new Promise(resolve => {
      const fail = ({ message }: Error): void => { resolve({ lost: message }) }
      const request = this.#get({ ...this.#target, agent: this.#agent, path }, response => {
        let body = ''
        response.setEncoding('utf8').on('data', (chunk: string) => { body += chunk }).on('error', fail).on('end', () => {
          resolve(response.statusCode === 200 ? { body } : { lost: String(response.statusCode) })
        })
      }).on('error', (error: NodeJS.ErrnoException) => {
        // Once the response has begun, it gets the error itself.
        if (request.reusedSocket && error.code === 'ECONNRESET') resolve({ unanswered: 'closed' })
        else fail(error)
      })
    })
  }

  close (): void {
    this.#agent.destroy()
  }
}

class Http2Client implements Client {
  readonly #target: LoadTarget
  readonly #isSecure: boolean
  readonly #keeps: boolean
  #session: ClientHttp2Session | undefined

  constructor (target: LoadTarget, isSecure: boolean, keeps: boolean) {
    this.#target = target
    this.#isSecure = isSecure
    this.#keeps = keeps
  }

  #connect (): ClientHttp2Session {
    const target = typeof this.#target === 'string' ? { path: this.#target } : { host: '127.0.0.1', port: this.#target }
    const createConnection = () => this.#isSecure
      ? connectSecure({ ...target, rejectUnauthorized: false, ALPNProtocols: ['h2'] })
      : connectSocket(target)
    const session = connect(this.#isSecure ? 'https://localhost' : 'http://localhost', { createConnection })
    // Its streams get the error, too.
    session.on('error', () => {})
    return session
  }

  /** The session, or a new one if it takes no more requests, because it has got GOAWAY. */
  #open (): ClientHttp2Session {
    if (this.#keeps && this.#session !== undefined && !this.#session.closed && !this.#session.destroyed) return this.#session
    this.#session = this.#connect()
    return this.#session
  }

  /** A request may be sent again if its stream was refused, or came after the last one that GOAWAY names: then it was not processed. */
  async send (path: string): Promise<Outcome> {
    const session = this.#open()
    const stream = session.request({ ':path': path })
    const outcome = await outcomeOf(stream)
    if (!this.#keeps) session.close()
    return outcome
  }

  close (): void {
    this.#session?.close()
  }
}

async function outcomeOf (stream: ClientHttp2Stream): Promise<Outcome> {
  let status: number | undefined
  let body = ''
  let error: Error | undefined
  let hasEnded = false
  stream.on('response', headers => { status = headers[':status'] })
  stream.setEncoding('utf8').on('data', (chunk: string) => { body += chunk })
  stream.on('end', () => { hasEnded = true }).on('error', (thrown: Error) => { error = thrown })
  await new Promise<void>(resolve => { stream.on('close', () => { resolve() }) })
  if (status === undefined && stream.rstCode === constants.NGHTTP2_REFUSED_STREAM) return { unanswered: 'refused stream' }
  if (error !== undefined || !hasEnded) return { lost: `${error?.message ?? 'no end'} (${stream.rstCode})` }
  return status === 200 ? { body } : { lost: String(status) }
}
