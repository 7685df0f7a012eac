// WebSockets of @fastify/websocket. They are not requests in flight, so the drain does not wait for their clients to close them.
// @fastify/websocket closes them in its own preClose hook, as the drain starts; this file gives that close a code that says why, lets the
// drain wait for its answer, and closes them during a spread.

import type { FastifyInstance } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { LongLived } from './spread.ts'
import { trySet } from '../before-call.ts'
import { wholeTurn, within } from '../clock.ts'
import { isInjectedUpgrade } from '../requests/exchange.ts'

/** 1001, "going away": RFC 6455's code for a server that goes down. */
const GOING_AWAY = 1001

/** The state of a WebSocket that has been closed, and waits for the answer of its client. */
const CLOSING = 2

interface WebSocket {
  readyState: number
  close: (code?: number, reason?: string | Buffer) => void
  terminate: () => void
  once: (event: 'close', listener: () => void) => void
}

/** With the option `clientTracking: false`, it has no list of its clients. */
interface WebSocketServer {
  clients?: Set<WebSocket>
  on: (event: 'connection', listener: (client: WebSocket, request?: IncomingMessage) => void) => void
}

export class WebSockets {
  readonly #servers = new Set<WebSocketServer>()
  /** Those of `injectWS()`. What they send arrives at once, but their streams do not end, so the server does not see them close. */
  readonly #injected = new WeakSet<WebSocket>()

  /** A connection has been upgraded on a route of this instance. */
  opened (instance: FastifyInstance): void {
    // @fastify/websocket adds it.
    const { websocketServer } = instance as { websocketServer?: WebSocketServer }
    if (websocketServer === undefined || this.#servers.has(websocketServer)) return
    this.#servers.add(websocketServer)
    websocketServer.on('connection', (client, request) => { if (request !== undefined && isInjectedUpgrade(request)) this.#injected.add(client) })
  }

  /** What closes each of them. */
  longLived (): LongLived[] {
    return this.#clients.map(client => [client, () => { client.close(GOING_AWAY) }])
  }

  /**
   * From now on, a close without a code means 1001. The preClose hook of @fastify/websocket closes clients this way; a user's
   * own hook may still pass another code.
   */
  goAway (): void {
    for (const client of this.#clients) {
      const { close } = client
      trySet(client, 'close', (code = GOING_AWAY, reason?: string) => { close.call(client, code, reason) })
    }
  }

  /**
   * Waits until the clients have answered the close: their last messages may start work. Those that have not in time, because they have
   * lost their network, are disconnected.
   */
  async closed (limit: number): Promise<void> {
    const closing = this.#clients.filter(({ readyState }) => readyState === CLOSING)
    const untilAnswered = async (client: WebSocket) => {
      if (this.#injected.has(client)) await wholeTurn()
      else await new Promise<void>(resolve => { client.once('close', resolve) })
    }
    await within(limit, Promise.all(closing.map(untilAnswered)))
    // Without effect on those that have closed. Injected ones have answered, but do not close by themselves.
    for (const client of closing) client.terminate()
  }

  get #clients (): WebSocket[] {
    return [...this.#servers].flatMap(({ clients = new Set() }) => Array.from(clients))
  }
}
