// The listeners of a Fastify instance: the server that it shows, and the second one that it binds for `localhost`
// (127.0.0.1 and ::1) and does not show.

import type { FastifyInstance } from 'fastify'
import type { Server } from 'node:net'
import { subscribe } from 'node:diagnostics_channel'
import { ServerSharedError } from '../errors.ts'

/** What takes charge of an instance's servers, by the request listener that they all share. */
const owners = new WeakMap<object, (server: Server) => void>()
/** The servers that have been adopted. */
const adopted = new WeakSet<Server>()
let isWatching = false

/** Whether the instance's servers have an owner. */
export function isOwned (fastify: FastifyInstance): boolean {
  return owners.has(fastify.routing)
}

/** @throws ServerSharedError if another instance has the same server: what closes it for one would cut off the other */
export function assertNotShared (fastify: FastifyInstance): void {
  if (adopted.has(fastify.server)) throw new ServerSharedError()
}

/** Hands each server of the instance to `adopt`, before it listens. */
export function adoptServers (fastify: FastifyInstance, adopt: (server: Server) => void): void {
  const adoptOnce = (server: Server) => {
    // One that could not listen may try again.
    if (adopted.has(server)) return
    adopted.add(server)
    adopt(server)
  }
  owners.set(fastify.routing, adoptOnce)
  adoptOnce(fastify.server)
  if (isWatching) return
  isWatching = true
  // One subscription for the life of the process: it holds no instance, so there is nothing to let go of.
  subscribe('tracing:net.server.listen:asyncStart', message => {
    const { server } = message as { server: Server }
    for (const listener of server.listeners('request')) owners.get(listener)?.(server)
  })
}
