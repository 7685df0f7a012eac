// The headers of the last response on an HTTP/1 connection.

import type { OutgoingHttpHeader, ServerResponse } from 'node:http'
import { OutgoingMessage } from 'node:http'
import { trySet } from '../before-call.ts'

type WriteHead = (...args: unknown[]) => ServerResponse

const { get: headersSent } = Object.getOwnPropertyDescriptor(OutgoingMessage.prototype, 'headersSent') as { get: () => boolean }

/** Whether the head has been sent, by Node's own `headersSent`: @fastify/express replaces that of each response. HTTP/1 only. */
export function isHeadSent (response: ServerResponse): boolean {
  return headersSent.call(response)
}

/**
 * If keep-alive is still disabled when the head of this response is written, its `connection` header says `close`. Node writes that header
 * itself, unless the handler has removed it. But one that is set, as by proxies and event streams, takes precedence over
 * `shouldKeepAlive`.
 */
export function closeByHeader (response: ServerResponse): void {
  const { writeHead } = response as { writeHead: WriteHead }
  const writeClosingHead: WriteHead = (...args) => {
    const isSwitchingProtocols = args[0] === 101
    if (response.shouldKeepAlive || isHeadSent(response) || isSwitchingProtocols) return writeHead.apply(response, args)
    const own = response.getHeader('connection')
    response.removeHeader('keep-alive')
    // Not if others are passed: Node 20 would then send only one of several with the same name.
    if (!args.some(isObject)) response.setHeader('connection', withClose(own))
    return writeHead.apply(response, args.map(arg => isObject(arg) ? closingHeaders(arg, own) : arg))
  }
  trySet(response, 'writeHead', writeClosingHead)
}

type Header = [name: OutgoingHttpHeader, value: OutgoingHttpHeader]

function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** The headers in any form that `writeHead()` takes: an object, a list of pairs, or a list of alternating names and values. */
function closingHeaders (headers: object, own: OutgoingHttpHeader | undefined): object {
  if (!Array.isArray(headers)) return Object.fromEntries(closing(Object.entries(headers) as Header[], own))
  if (Array.isArray(headers[0])) return closing(headers as Header[], own)
  const list = headers as OutgoingHttpHeader[]
  return closing(list.flatMap((name, index) => index % 2 === 0 ? [[name, list[index + 1] as OutgoingHttpHeader]] : []), own).flat()
}

/** @param own the `connection` header that is set already; one among these replaces it */
function closing (headers: Header[], own: OutgoingHttpHeader | undefined): Header[] {
  const nameOf = ([name]: Header) => String(name).toLowerCase()
  const given = headers.filter(header => nameOf(header) === 'connection').map(([, value]) => value)
  const others = headers.filter(header => !['connection', 'keep-alive'].includes(nameOf(header)))
  return [...others, ['Connection', withClose(given.length > 0 ? given : own)]]
}

/** What a `connection` header lists, with `close` in place of `keep-alive`. */
function withClose (listed: OutgoingHttpHeader | OutgoingHttpHeader[] = ''): string {
  const others = String(listed).split(',').map(option => option.trim()).filter(option => !/^(?:keep-alive|close|)$/i.test(option))
  return [...others, 'close'].join(', ')
}
