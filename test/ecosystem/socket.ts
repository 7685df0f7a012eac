// WebSocket and socket.io clients.

import type { Test } from 'tap'
import { once } from 'node:events'
import { WebSocket, type CloseEvent, type MessageEvent } from 'undici'
import { requireInstalled } from './service.ts'

export class Socket {
  readonly #client: WebSocket
  readonly closed: Promise<{ code: number, reason: string }>

  constructor (port: number, path: string, protocol?: string) {
    this.#client = new WebSocket(`ws://127.0.0.1:${port}${path}`, protocol)
    this.closed = new Promise(resolve => { this.#client.addEventListener('close', ({ code, reason }: CloseEvent) => { resolve({ code, reason }) }) })
  }

  send (message: unknown): void {
    this.#client.send(typeof message === 'string' ? message : JSON.stringify(message))
  }

  /** The next message. */
  async message (): Promise<string> {
    const [{ data }] = await once(this.#client as unknown as EventTarget, 'message') as [MessageEvent<string>]
    return data
  }

  async opened (): Promise<void> {
    await once(this.#client as unknown as EventTarget, 'open')
  }
}

/** A socket.io client that does not reconnect; closed with the test. */
export function connectSocketIo (t: Test, port: number, transport: 'websocket' | 'polling'): { client: NodeJS.EventEmitter, greeted: Promise<unknown> } {
  type Connect = (url: string, options: object) => NodeJS.EventEmitter & { close: () => void }
  const { io } = requireInstalled('socket.io-client') as { io: Connect }
  const client = io(`http://127.0.0.1:${port}`, { transports: [transport], reconnection: false })
  t.teardown(() => { client.close() })
  return { client, greeted: once(client, 'hello') }
}
