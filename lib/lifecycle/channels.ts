// What a shutdown does, on diagnostics channels, for traces and metrics.

import type { FastifyInstance } from 'fastify'
import type { DiagnosticsChannels } from '../../types/index.ts'
import { channel, subscribe, unsubscribe } from 'node:diagnostics_channel'

const CHANNELS = {
  phase: channel('fastify-graceful:phase'),
  refused: channel('fastify-graceful:refused'),
  cut: channel('fastify-graceful:cut'),
  callback: channel('fastify-graceful:callback'),
  report: channel('fastify-graceful:report')
}

type Name = keyof typeof CHANNELS
type Message<N extends Name> = DiagnosticsChannels[`fastify-graceful:${N}`]

export class Channels {
  readonly #fastify: FastifyInstance

  constructor (fastify: FastifyInstance) {
    this.#fastify = fastify
  }

  /**
   * Publishes a message, which is made only if there are subscribers. It never throws: Node rethrows the error of a subscriber in
   * process.nextTick, as an uncaught error.
   */
  publish<N extends Name> (name: N, message: () => Omit<Message<N>, 'fastify'>): void {
    const { [name]: target } = CHANNELS
    if (target.hasSubscribers) target.publish({ fastify: this.#fastify, ...message() })
  }
}

/** Subscribes to what one instance publishes. Returns what ends that. */
export function follow<N extends Name> (fastify: FastifyInstance, name: N, listener: (message: Message<N>) => void): () => void {
  const take = (data: unknown) => {
    const message = data as Message<N>
    if (message.fastify === fastify) listener(message)
  }
  subscribe(`fastify-graceful:${name}`, take)
  return () => { unsubscribe(`fastify-graceful:${name}`, take) }
}
