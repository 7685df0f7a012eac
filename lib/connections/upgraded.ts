// WebSockets of @fastify/websocket. They are not requests in flight, so the drain does not wait for them. @fastify/websocket closes
// them in its own preClose hook, as the drain starts; this file gives that close a code that says why, and closes them during a spread.

import type { FastifyInstance } from 'fastify'
import type { LongLived } from './spread.ts'

/** 1001, "going away": RFC 6455's code for a server that goes down. */
const GOING_AWAY = 1001

interface WebSocket {
  close: (code?: number, reason?: string | Buffer) => void
}

/** With the option `clientTracking: false`, it has no list of its clients. */
interface WebSocketServer {
  clients?: Set<WebSocket>
}

/** The property that @fastify/websocket adds to an instance. */
interface WithWebSockets {
  websocketServer?: WebSocketServer
}

export class WebSockets {
  readonly #servers = new Set<WebSocketServer>()

  /** A connection has been upgraded on a route of this instance. */
  opened (instance: FastifyInstance): void {
    const { websocketServer } = instance as WithWebSockets
    if (websocketServer !== undefined) this.#servers.add(websocketServer)
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
      client.close = (code = GOING_AWAY, reason) => { close.call(client, code, reason) }
    }
  }

  get #clients (): WebSocket[] {
    return [...this.#servers].flatMap(({ clients = new Set() }) => Array.from(clients))
  }
}
