// Takes the markup out of what a client sends, before a handler sees it.

import type { preHandlerHookHandler } from 'fastify'
import { FilterXSS } from 'xss'

const filter = new FilterXSS({
  whiteList: {},
  // Of these, the content is no text either.
  stripIgnoreTagBody: ['script', 'style'],
  // Tags go; `5 < 6` and `I <3 you` are none and stay, escaped. The option stripIgnoreTag would swallow the text
  // behind such a `<`.
  onIgnoreTag: (_tag, html) => /^<[/!]?[a-z]/i.test(html) && html.endsWith('>') ? '' : escape(html)
})

function escape (text: string): string {
  return text.replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/**
 * A hook for all strings in body and query. A preHandler, not a preValidation: what comes here has passed the
 * schema, so that it is no deeper and no longer than the route allows.
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
  // Only plain objects, as JSON and query strings make them: a Buffer or a stream is left alone.
  if (!isPlainObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, sanitize(item)]))
}

function isPlainObject (value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}
