// Holds requests that have arrived, before the application handles them.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Server } from 'node:net'
import { Deferred } from '../deferred.ts'

type Listener = (request: IncomingMessage, response: ServerResponse) => void

/** A request that is to be held when it arrives. */
export class Hold {
  readonly arrival = new Deferred<void>()
  readonly release = new Deferred<void>()
}

/**
 * Takes the place of the server's 'request' listeners, one of which is Fastify, and calls them later. The plugin counts an HTTP/1
 * request before all of them, when Node reports it.
 */
export class Holds {
  readonly #server: Server
  readonly #listeners: readonly Listener[]
  /** By the port of its client, until it arrives. */
  readonly #expected = new Map<number | undefined, Hold>()
  readonly #all = new Set<Hold>()

  constructor (server: Server) {
    this.#server = server
    this.#listeners = server.rawListeners('request') as Listener[]
    server.removeAllListeners('request')
    server.on('request', this.#onRequest)
  }

  readonly #onRequest: Listener = (request, response) => {
    const handle = () => { for (const listener of this.#listeners) listener.call(this.#server, request, response) }
    const { remotePort } = request.socket
    const hold = this.#expected.get(remotePort)
    this.#expected.delete(remotePort)
    hold?.arrival.resolve()
    if (hold === undefined) handle()
    else void hold.release.promise.then(handle)
  }

  /** Holds the next request from this port. */
  add (hold: Hold, port: number): void {
    this.#expected.set(port, hold)
    this.#all.add(hold)
  }

  releaseAll (): void {
    for (const hold of this.#all) hold.release.resolve()
  }

  /** Gives its own listeners back to the server. */
  end (): void {
    this.#server.off('request', this.#onRequest)
    for (const listener of this.#listeners) this.#server.on('request', listener)
  }
}
