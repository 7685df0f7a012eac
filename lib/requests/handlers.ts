// Handlers of routes, of errors and of not-found requests: how many of a request are running.

import type { FastifyInstance, FastifyReply } from 'fastify'
import type { InFlight } from './in-flight.ts'
import { attempt, mapFunction, type AnyFunction } from '../values.ts'
import { Exchange } from './exchange.ts'
import { HandlerCall } from './handler-call.ts'

export class Handlers {
  readonly #inFlight: InFlight

  constructor (inFlight: InFlight) {
    this.#inFlight = inFlight
  }

  /**
   * Wraps a handler of a route, of errors or of not-found requests, to see when it is done: observes the call of `then` that Fastify makes
   * on what the handler returns.
   */
  readonly observe = (handler: AnyFunction): AnyFunction => {
    const handlers = this
    // Other plugins also call route handlers: @fastify/websocket passes a socket and a request.
    const observed = function (this: unknown, ...args: unknown[]) {
      const reply = (args[2] ?? args[1]) as FastifyReply | undefined
      const call = handlers.#called(reply)
      if (call === undefined) return handler.apply(this, args)
      let result: unknown
      try {
        result = handler.apply(this, args)
      } catch (error) {
        call.threw()
        throw error
      }
      return call.returned(reply, result, args[2] !== undefined)
    }
    return likeAuthors(observed, handler)
  }

  /** Wraps the handler of a route that has opted out. */
  readonly optOut = (handler: AnyFunction): AnyFunction => {
    return likeAuthors(function (this: unknown, ...args: unknown[]) {
      const exchange = Exchange.of(args[1] as FastifyReply)
      exchange?.owner.optOut(exchange)
      return handler.apply(this, args)
    }, handler)
  }

  #called (reply: FastifyReply | undefined): HandlerCall | undefined {
    const exchange = Exchange.of(reply) ?? this.#attach(reply)
    if (exchange === undefined) return undefined
    // Not that of this instance, if another one has been given its handler: setErrorHandler(other.errorHandler).
    const { owner } = exchange
    owner.reenter(exchange)
    if (exchange.wire === 'orphaned') owner.awaitAnswer(exchange)
    return new HandlerCall(exchange)
  }

  /** A hook registered before the plugin may have failed. In a unit test, `fastify.errorHandler()` may be passed a mock. */
  #attach (reply: FastifyReply | undefined): Exchange | undefined {
    const isReply = attempt(() => reply?.raw.req) !== undefined
    return isReply ? this.#inFlight.attach(reply as FastifyReply) : undefined
  }

  /** No hook covers error and not-found handlers, so their setters are wrapped. Child contexts inherit the setters. */
  observeSetters (fastify: FastifyInstance): void {
    const { setNotFoundHandler, setErrorHandler } = fastify as unknown as Record<'setNotFoundHandler' | 'setErrorHandler', AnyFunction>
    const observe = (argument: unknown) => mapFunction(argument, this.observe)
    const observed = (set: AnyFunction): AnyFunction => function (...args) { return set.apply(this, args.map(observe)) }
    Object.assign(fastify, { setNotFoundHandler: observed(setNotFoundHandler), setErrorHandler: observed(setErrorHandler) })
  }

  /** As decorations, so that the replies of other instances, which share the prototype, keep Fastify's own methods. */
  observeReplies (fastify: FastifyInstance): void {
    const inFlight = this.#inFlight
    let fastifySend: FastifyReply['send'] | undefined
    const send: FastifyReply['send'] = function (this: FastifyReply, payload) {
      const exchange = Exchange.of(this)
      if (exchange !== undefined) inFlight.sending(exchange, payload)
      fastifySend ??= fastifysOwn(this, 'send')
      return fastifySend.call(this, payload)
    }
    fastify.decorateReply('send', send)
    const callNotFound: FastifyReply['callNotFound'] = function (this: FastifyReply) {
      const exchange = Exchange.of(this)
      if (exchange !== undefined) inFlight.notFound(exchange)
      return fastifysOwn(this, 'callNotFound').call(this)
    }
    fastify.decorateReply('callNotFound', callNotFound)
    // Fastify awaits a reply that an async handler returns, which may answer from a callback. Such a promise settles when the client
    // disconnects, and says nothing about the callback.
    const then: FastifyReply['then'] = function (this: FastifyReply, fulfilled, rejected) {
      const exchange = Exchange.of(this)
      if (exchange?.call !== undefined) exchange.call.isReplyAwaited = true
      // On HTTP/2, Fastify's own `then` never settles if the stream is closed, nor if it waits for a 'close' that Node does not emit.
      if (exchange?.isGone === true) fulfilled()
      else if (exchange?.mayLackClose === true) exchange.onClose(fulfilled)
      else fastifysOwn(this, 'then').call(this, fulfilled, rejected)
    }
    fastify.decorateReply('then', then)
  }
}

/** The method of the class from which the replies of all instances inherit. Other code may have replaced that of a reply or an instance. */
function fastifysOwn<K extends 'send' | 'then' | 'callNotFound'> (reply: FastifyReply, name: K): FastifyReply[K] {
  let { [name]: method } = reply
  for (let level = reply; name in level; level = Object.getPrototypeOf(level) as FastifyReply) method = level[name]
  return method
}

/** onRoute hooks of other code find the name and the properties of the author's handler. */
function likeAuthors (wrapper: AnyFunction, handler: AnyFunction): AnyFunction {
  // A proxy may show none.
  attempt(() => Object.defineProperties(wrapper, Object.getOwnPropertyDescriptors(handler)))
  return wrapper
}
