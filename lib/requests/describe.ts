// What log and report show of a request. A user's serializer decides that, because a URL may contain a secret.

import type { IncomingMessage } from 'node:http'
import type { RequestInFlight } from '../../types/index.ts'
import type { Exchange } from './exchange.ts'
import { attempt, nameOf } from '../values.ts'

/** Where pino keeps the serializers of a logger, `pino.symbols.serializersSym`; other loggers have none. */
const kSerializers = Symbol.for('pino.serializers')

/** @param log the instance's logger, for a request that a hook registered before the plugin still holds */
export function describe (exchange: Exchange, log: unknown): RequestInFlight {
  const { request, reply } = exchange
  const entry = { kind: 'request', method: attempt(() => String(request.method)) ?? '', route: undefined, url: undefined, reqId: undefined } as const
  const age = Math.round(exchange.age)
  try {
    // A route's own serializer is not known yet, so its query stays out.
    if (reply === undefined) return { ...entry, url: withoutQuery(urlOf(request, log)), age }
    const { routeOptions, id } = reply.request
    return { ...entry, route: routeOptions.url, url: urlOf(reply.request, reply.log), reqId: idOf(id), age }
  } catch {
    // A handler has replaced properties of its reply.
    return { ...entry, age }
  }
}

/** Of a request that does not reach Fastify. */
export function nameOfRequest (request: IncomingMessage, log: unknown): string {
  return [request.method, withoutQuery(urlOf(request, log))].join(' ').trim()
}

/** `genReqId` may return any value. */
function idOf (id: unknown): string {
  return typeof id === 'number' ? String(id) : nameOf(id)
}

/** The URL as the user's `req` serializer shows it, undefined if it shows none; without a serializer, without the query. */
function urlOf (request: { url?: unknown }, log: unknown): string | undefined {
  const serialize = (log as { [kSerializers]?: { req?: (request: unknown) => unknown } } | null)?.[kSerializers]?.req
  // Not originalUrl: it has what `rewriteUrl` may have removed, such as a token.
  if (serialize === undefined) return withoutQuery(text(() => request.url))
  return text(() => (serialize(request) as { url?: unknown }).url)
}

function withoutQuery (url: string | undefined): string | undefined {
  return url?.replace(/[?#].*/s, '')
}

/** The value, if it can be read and is a string. */
function text (read: () => unknown): string | undefined {
  const value = attempt(read)
  return typeof value === 'string' ? value : undefined
}
