// The listeners of a Fastify instance: the server that it shows, and the second one that it binds for
// `localhost` (127.0.0.1 and ::1) and does not show.

import type { FastifyInstance } from 'fastify'
import type { Server } from 'node:net'
import { subscribe } from 'node:diagnostics_channel'
import { ServerSharedError } from './errors.ts'

/** Who takes charge of an instance's servers, by the request listener that they all share. */
const owners = new WeakMap<object, (server: Server) => void>()
/** Those that somebody has taken charge of. */
const owned = new WeakSet<Server>()
let watching = false

/** Whether the instance's servers have an owner. */
export function isOwned (fastify: FastifyInstance): boolean {
  return owners.has(fastify.routing)
}

/**
 * Hands each server of the instance to `adopt`, before it listens.
 * @throws ServerSharedError where another instance has its server, too: what closes it for one would cut off the other
 */
export function adoptServers (fastify: FastifyInstance, adopt: (server: Server) => void): void {
  if (owned.has(fastify.server)) throw new ServerSharedError()
  const adoptOnce = (server: Server): void => {
    // One that could not listen may do so again.
    if (owned.has(server)) return
    owned.add(server)
    adopt(server)
  }
  owners.set(fastify.routing, adoptOnce)
  adoptOnce(fastify.server)
  if (watching) return
  watching = true
  // One subscription for the life of the process: it holds no instance, so that there is nothing to let go of.
  subscribe('tracing:net.server.listen:asyncStart', message => {
    const { server } = message as { server: Server }
    for (const listener of server.listeners('request')) owners.get(listener)?.(server)
  })
}
