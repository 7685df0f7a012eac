// Removes markup from what a client sends, before the handler runs.

import type { preHandlerHookHandler } from 'fastify'
import { FilterXSS } from 'xss'

const filter = new FilterXSS({
  whiteList: {},
  // The content of these is removed as well.
  stripIgnoreTagBody: ['script', 'style'],
  // Tags are removed. `5 < 6` and `I <3 you` are not tags; they are kept and escaped. The option stripIgnoreTag would
  // also remove the text after such a `<`.
  onIgnoreTag: (_tag, html) => /^<[/!]?[a-z]/i.test(html) && html.endsWith('>') ? '' : escape(html)
})

function escape (text: string): string {
  return text.replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/**
 * A hook for all strings in body and query. It is a preHandler, not a preValidation hook: the input has passed
 * validation, so its depth and length are limited by the route's schema.
 */
export const sanitizeInput: preHandlerHookHandler = (request, _reply, done) => {
  request.body = sanitize(request.body)
  request.query = sanitize(request.query)
  done()
}

/** The same value, with every string in it sanitized. */
export function sanitize (value: unknown): unknown {
  if (typeof value === 'string') return filter.process(value)
  if (Array.isArray(value)) return value.map(sanitize)
  // Only plain objects, as parsed from JSON and query strings: a Buffer or a stream is returned as it is.
  if (!isPlainObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, sanitize(item)]))
}

function isPlainObject (value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}
