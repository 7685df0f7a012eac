// What log and report show of a request. A serializer of the user's decides that, because a URL may hold a secret.

import type { FastifyReply } from 'fastify'
import type { RequestInFlight } from '../../types/index.ts'
import type { Exchange } from './exchange.ts'
import { nameOf } from '../values.ts'

/** Where pino keeps a logger's serializers, `pino.symbols.serializersSym`; other loggers have none. */
const kSerializers = Symbol.for('pino.serializers')

interface WithSerializers {
  [kSerializers]?: { req?: (request: unknown) => unknown }
}

export function describe ({ request, reply, age }: Exchange): RequestInFlight {
  if (reply === undefined) {
    // A hook that was registered ahead of the plugin holds it.
    const { method = '', url = '' } = request
    return { kind: 'request', method, route: undefined, url: withoutQuery(url), reqId: undefined, age: Math.round(age) }
  }
  const { request: { method, routeOptions, id } } = reply
  return { kind: 'request', method, route: routeOptions.url, url: urlOf(reply), reqId: idOf(id), age: Math.round(age) }
}

/** `genReqId` may make anything. */
function idOf (id: unknown): string {
  return typeof id === 'number' ? String(id) : nameOf(id)
}

/** The URL as the user's `req` serializer shows it; undefined if that shows none, without its query if none is known. */
function urlOf ({ request, log }: FastifyReply): string | undefined {
  const serialize = (log as WithSerializers)[kSerializers]?.req
  if (serialize === undefined) return withoutQuery(request.url)
  try {
    const { url } = serialize(request) as { url?: unknown }
    return typeof url === 'string' ? url : undefined
  } catch {
    return undefined
  }
}

function withoutQuery (url: string): string {
  return url.replace(/[?#].*/s, '')
}
