// WebSockets of @fastify/websocket: they are no requests in flight, so a drain does not wait for them. They are told why
// they are closed.

import type { FastifyInstance } from 'fastify'

/** 1001, "going away": the code that RFC 6455 has for a server that goes down. */
const GOING_AWAY = 1001

interface WebSocket {
  close: (code?: number, reason?: string | Buffer) => void
}

/** What @fastify/websocket decorates an instance with. */
interface WithWebSockets {
  websocketServer?: { clients: Set<WebSocket> }
}

export class WebSockets {
  readonly #servers = new Set<{ clients: Set<WebSocket> }>()

  /** A connection has been upgraded on a route of this instance. */
  opened (instance: FastifyInstance): void {
    const { websocketServer } = instance as WithWebSockets
    if (websocketServer !== undefined) this.#servers.add(websocketServer)
  }

  /**
   * From now on, a close without a code means 1001. The preClose hook of @fastify/websocket closes them so; a hook of the
   * user's in its place still says its own code.
   */
  goAway (): void {
    for (const { clients } of this.#servers) {
      for (const client of clients) {
        const { close } = client
        client.close = (code = GOING_AWAY, reason) => { close.call(client, code, reason) }
      }
    }
  }
}
