// The headers of the last response on an HTTP/1 connection.

import type { OutgoingHttpHeader, ServerResponse } from 'node:http'

type WriteHead = (...args: unknown[]) => ServerResponse

/**
 * If keep-alive is still disabled when the head of this response is written, its own `connection` header also says `close`. Node
 * prefers such a header to `shouldKeepAlive`, and proxies and event streams set one.
 */
export function closeByHeader (response: ServerResponse): void {
  const { writeHead } = response as { writeHead: WriteHead }
  const writeClosingHead: WriteHead = (...args) => {
    const isSwitchingProtocols = args[0] === 101
    if (response.shouldKeepAlive || response.headersSent || isSwitchingProtocols) return writeHead.apply(response, args)
    const connection = response.getHeader('connection')
    // Not removed, because Node would then write none.
    if (connection !== undefined) response.setHeader('connection', withClose(connection))
    response.removeHeader('keep-alive')
    return writeHead.apply(response, args.map(arg => typeof arg === 'object' && arg !== null ? closingHeaders(arg) : arg))
  }
  response.writeHead = writeClosingHead
}

/** The headers in any form that `writeHead()` takes: an object, a list of pairs, or a list of alternating names and values. */
function closingHeaders (headers: object): object {
  if (!Array.isArray(headers)) return Object.fromEntries((Object.entries(headers) as Header[]).flatMap(closingHeader))
  if (Array.isArray(headers[0])) return (headers as Header[]).flatMap(closingHeader)
  const list = headers as OutgoingHttpHeader[]
  return list.flatMap((name, index) => index % 2 === 0 ? closingHeader([name, list[index + 1] as OutgoingHttpHeader]).flat() : [])
}

type Header = [name: OutgoingHttpHeader, value: OutgoingHttpHeader]

function closingHeader ([name, value]: Header): Header[] {
  const lowerName = String(name).toLowerCase()
  if (lowerName === 'keep-alive') return []
  return [[name, lowerName === 'connection' ? withClose(value) : value]]
}

/** What a `connection` header lists, with `close` in place of `keep-alive`. */
function withClose (listed: OutgoingHttpHeader): string {
  const others = String(listed).split(',').map(option => option.trim()).filter(option => !/^(?:keep-alive|close|)$/i.test(option))
  return [...others, 'close'].join(', ')
}
