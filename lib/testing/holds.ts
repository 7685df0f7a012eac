// Holds requests that have arrived, before the application handles them.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Server } from 'node:net'

interface Hold {
  /** Resolves when the request is held. */
  held: Promise<void>
  release: () => void
  /** Called with the port of the client, by which the server knows the request to hold. */
  connected: (port: number) => void
}

type Listener = (request: IncomingMessage, response: ServerResponse) => void

/**
 * Takes the place of the server's 'request' listeners, of which Fastify is one, and calls them in turn. The plugin counts a request
 * as it arrives, before them.
 */
export class Holds {
  readonly #server: Server
  readonly #listeners: readonly Listener[]
  /** What to do when the request of this port arrives. */
  readonly #arrivals = new Map<number | undefined, (handle: () => void) => void>()
  readonly #releases = new Set<() => void>()

  constructor (server: Server) {
    this.#server = server
    this.#listeners = server.rawListeners('request') as Listener[]
    server.removeAllListeners('request')
    server.on('request', this.#onRequest)
  }

  readonly #onRequest: Listener = (request, response) => {
    const handle = () => { for (const listener of this.#listeners) listener.call(this.#server, request, response) }
    const port = request.socket.remotePort
    const arrive = this.#arrivals.get(port)
    this.#arrivals.delete(port)
    if (arrive === undefined) handle()
    else arrive(handle)
  }

  /** Gives the server its own listeners back. */
  end (): void {
    this.#server.off('request', this.#onRequest)
    for (const listener of this.#listeners) this.#server.on('request', listener)
  }

  add (): Hold {
    let release = () => {}
    const released = new Promise<void>(resolve => { release = resolve })
    this.#releases.add(release)
    let connected: Hold['connected'] = () => {}
    const held = new Promise<void>(resolve => {
      connected = port => {
        this.#arrivals.set(port, handle => {
          resolve()
          void released.then(handle)
        })
      }
    })
    return { held, release, connected }
  }

  releaseAll (): void {
    for (const release of this.#releases) release()
  }
}
