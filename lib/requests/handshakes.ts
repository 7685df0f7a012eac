// Requests that the server passes to listeners of its 'upgrade' and 'connect' events, not to Fastify. A listener may work before it
// answers over the socket: authentication, for example. Nothing else tells of that work, so it is background work until then.

import type { IncomingMessage } from 'node:http'
import type { Server } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Connections } from '../connections/sockets.ts'
import type { Tasks } from './tasks.ts'
import { replaceMethod, trySet } from '../before-call.ts'
import { Deferred } from '../deferred.ts'
import { attempt, type AnyFunction } from '../values.ts'
import { nameOfRequest } from './describe.ts'
import { answerOf } from './exchange.ts'

type Listener = (this: unknown, request: IncomingMessage, socket: Duplex, ...args: unknown[]) => unknown

const EVENTS: ReadonlySet<string> = new Set(['upgrade', 'connect'])

export class Handshakes {
  readonly #tasks: Tasks
  readonly #connections: Connections
  readonly #log: unknown
  /** What ends those that have begun, by their requests. */
  readonly #begun = new WeakMap<IncomingMessage, () => void>()
  /** What checks those that have not ended. */
  readonly #checks = new Set<() => void>()

  /** @param log its serializer shows the URL */
  constructor (tasks: Tasks, connections: Connections, log: unknown) {
    this.#tasks = tasks
    this.#connections = connections
    this.#log = log
  }

  /**
   * Wraps each listener, added before or later. An additional listener would change what happens: without one, Node passes an upgrade to
   * Fastify and closes a CONNECT, and @fastify/http-proxy counts listeners. Wrapping `emit()` would cost every request.
   */
  observe (server: Server): void {
    for (const name of ['on', 'addListener', 'prependListener'] as const) {
      const { [name]: add } = server
      trySet(server, name, (event: string, listener: Listener) => Reflect.apply(add, server, [event, this.#observed(event, listener)]))
    }
    for (const event of EVENTS) {
      const listeners = server.rawListeners(event) as Listener[]
      server.removeAllListeners(event)
      for (const listener of listeners) server.on(event, listener)
    }
  }

  /** What is added in place of a listener. One of `once()` is not observed: it must remove itself. */
  #observed (event: string, listener: Listener): Listener {
    if (!EVENTS.has(event) || typeof listener !== 'function' || isOnce(listener)) return listener
    const handshakes = this
    const observed: Listener = function (request, socket, ...args) {
      // Other code may emit the event with anything.
      attempt(() => { handshakes.#begin(event, request, socket) })
      return Reflect.apply(listener, this, [request, socket, ...args])
    }
    // Node finds it by this property, to remove it.
    return Object.assign(observed, { listener })
  }

  #begin (event: string, request: IncomingMessage, socket: Duplex): void {
    const { stream, method } = answerOf(request, socket)
    const isOwn = () => method === 'respond' || this.#connections.has(socket)
    // Another listener has got the same request, or other code has emitted the event: nothing tells how such a socket ends.
    if (this.#begun.has(request) || !isOwn()) return
    const begin = Reflect.get(stream, method) as AnyFunction
    const { promise: answered, resolve } = new Deferred<void>()
    const end = () => {
      restore()
      this.#checks.delete(check)
      stream.off('finish', end).off('close', end)
      resolve()
    }
    // Not every end has an event: the connection may have been forgotten, or the stream may have lost its listeners.
    const check = () => { if (stream.destroyed || !isOwn()) end() }
    stream.on('finish', end).on('close', end)
    const restore = replaceMethod(stream, method, (...args: unknown[]) => {
      end()
      return Reflect.apply(begin, stream, args)
    })
    this.#begun.set(request, end)
    this.#checks.add(check)
    this.#tasks.track(answered, `${event} listener (${nameOfRequest(request, this.#log)})`)
  }

  /** Ends those of which no event has told the end. */
  checkAll (): void {
    for (const check of this.#checks) check()
  }

  /** Fastify has got the request after all. */
  end (request: IncomingMessage): void {
    this.#begun.get(request)?.()
  }
}

/** Whether `once()` adds it. */
function isOnce (listener: Listener & { listener?: unknown }): boolean {
  return attempt(() => listener.listener) !== undefined
}
