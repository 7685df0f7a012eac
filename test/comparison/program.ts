// A program under comparison, and its clients.

import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { RawClient } from '../helpers.ts'

/** What a question requires of a program; see programs/service.mjs. All times in milliseconds. */
export interface Settings {
  delay: number
  limit: number
  instances: number
  http2: boolean
  webSocket: boolean
  cleanupHangs: boolean
  downloadSize: number
}

export interface Probe {
  port: number
  path: string
}

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

interface ProgramEvent {
  event: string
  port?: number
  probe?: Probe
}

/** The usual limit. */
export const LIMIT = 3000
const DEFAULTS: Settings = { delay: 0, limit: LIMIT, instances: 1, http2: false, webSocket: false, cleanupHangs: false, downloadSize: 0 }
/** How long a program may take for what it is asked; no answer depends on this limit. */
const PATIENCE = 60_000

export class Program {
  readonly events: ProgramEvent[] = []
  readonly exit: Promise<Exit>
  readonly #child: ChildProcess
  readonly #news = new EventEmitter()
  #output = ''
  #outputAtSignal = 0
  #isGone = false

  constructor (folder: string, name: string, settings: Partial<Settings>) {
    this.#child = fork(join(folder, `${name}.mjs`), {
      cwd: folder, execArgv: [], stdio: ['ignore', 'pipe', 'pipe', 'ipc'], env: { ...process.env, SETTINGS: JSON.stringify({ ...DEFAULTS, ...settings }) }
    })
    let rest = ''
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString()
      const lines = (rest + chunk.toString()).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines.filter(text => text.startsWith('{"event":'))) this.events.push(JSON.parse(line) as ProgramEvent)
      this.#news.emit('event')
    })
    this.#child.stderr?.on('data', (chunk: Buffer) => { this.#output += chunk.toString() })
    this.exit = new Promise(resolve => {
      this.#child.on('close', (code, signal) => {
        this.#isGone = true
        resolve({ code, signal })
        this.#news.emit('event')
      })
    })
  }

  /** The output since the signal. */
  get outputSinceSignal (): string {
    return this.#output.slice(this.#outputAtSignal)
  }

  /** Waits until the program has reported this event for the nth time. */
  async event (name: string, nth = 1): Promise<ProgramEvent> {
    for (;;) {
      const found = this.events.filter(({ event }) => event === name)[nth - 1]
      if (found !== undefined) return found
      if (this.#isGone) throw new Error(`It has exited before ${name}:\n${this.#output}`)
      const news = new Promise(resolve => { this.#news.once('event', resolve) })
      if (await within(news.then(() => true), PATIENCE) === undefined) throw new Error(`Not told of ${name}:\n${this.#output}`)
    }
  }

  has (name: string): boolean {
    return this.events.some(({ event }) => event === name)
  }

  signal (signal: NodeJS.Signals = 'SIGTERM'): void {
    this.#outputAtSignal = this.#output.length
    this.#child.kill(signal)
  }

  /** Lets the handlers of `/held` and `/early` finish. */
  release (): void {
    // The channel may be closed.
    if (this.#child.connected) this.#child.send('release', () => {})
  }

  end (): void {
    this.#child.kill('SIGKILL')
  }
}

/** The promise's value, or undefined after `limit` milliseconds. */
export async function within<T> (promise: Promise<T>, limit: number): Promise<T | undefined> {
  const timer = new AbortController()
  const timeout = sleep(limit, undefined, { signal: timer.signal }).catch(() => undefined)
  try {
    return await Promise.race([promise, timeout])
  } finally {
    timer.abort()
  }
}

export interface Answer {
  /** The status code, or how the connection ended without one. */
  result: string
  closes: boolean
  isWhole: boolean
}

/** Sends a GET request and waits for its response or for the end of the connection. */
export async function get (client: RawClient, path: string): Promise<Answer> {
  const before = client.text.length
  client.get(path)
  return await answer(client, before)
}

/** Waits for a response that begins at this offset in what the client has read. */
export async function answer (client: RawClient, from = 0): Promise<Answer> {
  const received = () => client.text.slice(from)
  const whole = async (): Promise<void> => {
    while (!isWhole(received())) await once(client.socket, 'data')
  }
  await within(Promise.race([whole(), client.closed]).catch(() => client.closed), 10_000)
  const text = received()
  const isRefused = client.error !== undefined && 'code' in client.error && client.error.code === 'ECONNREFUSED'
  const status = /^HTTP\/1\.1 (\d+)/.exec(text)?.[1]
  return {
    result: status ?? (isRefused ? 'refused' : 'reset'),
    closes: /^connection: close\r$/im.test(text),
    isWhole: isWhole(text)
  }
}

function isWhole (text: string): boolean {
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) return false
  const length = Number(/^content-length: (\d+)\r$/im.exec(text.slice(0, end + 2))?.[1])
  return text.length - end - 4 >= length || (Number.isNaN(length) && text.endsWith('0\r\n\r\n'))
}

/** Sends a request over a new connection. */
export async function getOnce (port: number, path: string): Promise<Answer> {
  const client = new RawClient(port)
  try {
    return await get(client, path)
  } finally {
    client.socket.destroy()
  }
}
