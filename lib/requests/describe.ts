// What log and report show of a request. A serializer of the user's decides that, because a URL may hold a secret.

import type { RequestInFlight } from '../../types/index.ts'
import type { Exchange } from './exchange.ts'
import { nameOf } from '../values.ts'

/** Where pino keeps a logger's serializers, `pino.symbols.serializersSym`; other loggers have none. */
const kSerializers = Symbol.for('pino.serializers')

interface WithSerializers {
  [kSerializers]?: { req?: (request: unknown) => unknown }
}

/** @param log the instance's logger, for a request that a hook which was registered ahead of the plugin's holds */
export function describe (exchange: Exchange, log: unknown): RequestInFlight {
  const { request, reply } = exchange
  const entry = { kind: 'request', method: text(() => request.method) ?? '', route: undefined, url: undefined, reqId: undefined } as const
  const age = Math.round(exchange.age)
  try {
    if (reply === undefined) return { ...entry, url: urlOf(request, log), age }
    const { routeOptions, id } = reply.request
    return { ...entry, route: routeOptions.url, url: urlOf(reply.request, reply.log), reqId: idOf(id), age }
  } catch {
    // A handler has replaced the parts of its reply.
    return { ...entry, age }
  }
}

/** `genReqId` may make anything. */
function idOf (id: unknown): string {
  return typeof id === 'number' ? String(id) : nameOf(id)
}

/** The URL as the user's `req` serializer shows it; undefined if that shows none, without its query if none is known. */
function urlOf (request: { url?: unknown }, log: unknown): string | undefined {
  const serialize = (log as WithSerializers | null)?.[kSerializers]?.req
  if (serialize === undefined) return text(() => request.url)?.replace(/[?#].*/s, '')
  return text(() => (serialize(request) as { url?: unknown }).url)
}

/** What may be anything, if it is text. */
function text (read: () => unknown): string | undefined {
  try {
    const value = read()
    return typeof value === 'string' ? value : undefined
  } catch {
    return undefined
  }
}
