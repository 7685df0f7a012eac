// What log and report show of a request: its own `req` serializer decides that, because a URL may contain a secret.

import t from 'tap'
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { RequestInFlight, ShutdownReport } from '../index.ts'
import { Writable } from 'node:stream'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { Deferred, expectWarnings, heldRoute, listen, Log, RawClient } from './helpers.ts'

// Most of them wait for a line that is logged each second.
t.jobs = 4

const hideQuery = ({ method, url }: FastifyRequest): { method: string, url: string } => ({ method, url: url.replace(/\?.*/, '') })

interface Shown {
  /** Everything that was logged. */
  text: string
  log: Log
  entry: RequestInFlight
  report: ShutdownReport
}

/** Has a request cut at the drain timeout after progress lines, and returns what is shown of it. */
async function cutOne (t: Test, server: object, addRoute: (app: FastifyInstance, handler: () => Promise<void>) => unknown): Promise<Shown> {
  expectWarnings(t, /disableRequestLogging option is deprecated/)
  const log = new Log()
  let text = ''
  const write = (chunk: string): void => {
    text += chunk
    log.write(chunk)
  }
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { write(chunk.toString()); done() } })
  const options = 'loggerInstance' in server
    ? { ...server, loggerInstance: customLogger(write) }
    : { ...server, logger: { level: 'debug', stream, ...(server as { logger?: object }).logger } }
  const app = Fastify(options) as unknown as FastifyInstance
  const [entered, released] = [new Deferred(), new Deferred()]
  t.teardown(async () => {
    released.resolve()
    await app.close()
  })
  await app.register(gracefulPlugin, { drainTimeout: 1_600 })
  addRoute(app, async () => {
    entered.resolve()
    await released.promise
  })
  const client = new RawClient(await listen(app)).get('/held/id?token=secret')
  await entered.promise
  const [entry] = app.gracefulShutdown.inFlight()
  const report = await app.gracefulShutdown.shutdown()
  await client.closed
  await log.line(/^Shutdown complete, with errors/)
  return { text, log, entry: entry as RequestInFlight, report }
}

const addPlain = (app: FastifyInstance, handler: () => Promise<void>): unknown => app.get('/held/:id', handler)

/** A logger other than pino. It applies the serializers that it is given, as bunyan does. */
function customLogger (write: (text: string) => void): FastifyBaseLogger {
  const levels = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60 }
  const create = (bindings: object, serializers: Record<string, (value: never) => unknown>): object => {
    const line = (level: number) => (first: object | string, message?: string): void => {
      const fields = typeof first === 'string' ? {} : first
      const shown = Object.entries(fields).map(([name, value]) => [name, serializers[name]?.(value as never) ?? value])
      const msg = typeof first === 'string' ? first : message
      // Fastify's own objects reference everything.
      const plain = (_key: string, value: unknown): unknown => value instanceof Error ? { message: value.message } : value
      try {
        write(`${JSON.stringify({ level, ...bindings, ...Object.fromEntries(shown) as object, msg }, plain)}\n`)
      } catch {
        write(`${JSON.stringify({ level, msg })}\n`)
      }
    }
    return {
      level: 'debug',
      serializers,
      ...Object.fromEntries(Object.entries(levels).map(([name, level]) => [name, line(level)])),
      silent: () => {},
      child: (more: object, options: { serializers?: object } = {}) =>
        create({ ...bindings, ...more }, { ...serializers, ...options.serializers })
    }
  }
  return create({}, { req: hideQuery }) as FastifyBaseLogger
}

const hidden: Record<string, Parameters<typeof cutOne> extends [unknown, ...infer Rest] ? Rest : never> = {
  "the logger's serializer": [{ logger: { serializers: { req: hideQuery } } }, addPlain],
  "a route's logSerializers": [{}, (app, handler) => app.get('/held/:id', { logSerializers: { req: hideQuery as never } }, handler)],
  "a child context's logSerializers": [{}, (app, handler) => app.register(async child => {
    child.get('/held/:id', handler)
  }, { logSerializers: { req: hideQuery as never } })],
  'a childLoggerFactory': [{
    childLoggerFactory: (logger: FastifyBaseLogger, bindings: object, options: object) =>
      logger.child(bindings, { ...options, serializers: { req: hideQuery as never } })
  }, addPlain],
  'a serializer of a server without request logging': [{ disableRequestLogging: true, logger: { serializers: { req: hideQuery } } }, addPlain],
  'the serializer of a custom logger': [{ loggerInstance: true }, addPlain]
}

for (const [what, [server, addRoute]] of Object.entries(hidden)) {
  t.test(`${what} hides the query from the cut line, the progress lines and the report`, async t => {
    const { text, log, entry, report } = await cutOne(t, server, addRoute)
    t.match(report.cut, [{ method: 'GET', route: '/held/:id', reqId: 'req-1' }])
    for (const { url } of [entry, report.cut[0] as RequestInFlight]) t.ok(url === undefined || url === '/held/id', `shows ${url}`)
    t.ok(log.messages(/^Request cut/).length === 1 && log.messages(/^Waiting for GET/).length > 0, 'was logged')
    t.notMatch(text, /secret/)
    t.notMatch(JSON.stringify(report), /secret/)
  })
}

const strange: Record<string, (request: FastifyRequest) => unknown> = {
  throws: () => { throw new Error('serializer') },
  'returns null': () => null,
  'returns text': ({ method }) => method,
  'returns no url': ({ method }) => ({ method }),
  'returns a url that is not a string': () => ({ url: { path: 'secret' } })
}

for (const [what, req] of Object.entries(strange)) {
  t.test(`a serializer that ${what} shows no URL and does not break the log`, async t => {
    const { text, entry, report } = await cutOne(t, { disableRequestLogging: true, logger: { serializers: { req } } }, addPlain)
    t.equal(entry.url, undefined)
    t.match(report, { cut: [{ kind: 'request', method: 'GET', route: '/held/:id', reqId: 'req-1' }], errors: { length: 0 }, exitCode: 1 })
    t.notMatch(text, /secret/)
    t.notMatch(JSON.stringify(report), /secret/)
  })
}

t.test('redact hides the URL in the lines of the plugin if it lists their keys', async t => {
  const redact = ['req.url', 'url', 'report.cut[*].url', 'report.slowest[*].url']
  const { text, log } = await cutOne(t, { logger: { redact } }, (app, handler) => app.get('/held/:id', handler))
  t.notMatch(text, 'secret')
  t.match(log.lines.find(({ msg }) => msg.startsWith('Request cut')), { url: '[Redacted]' })
})

t.test('without a serializer of the user, the URL is shown with its query', async t => {
  const { entry, report, log } = await cutOne(t, {}, addPlain)
  t.equal(entry.url, '/held/id?token=secret')
  t.match(report.cut, [{ url: '/held/id?token=secret' }])
  t.match(await log.line(/^Request cut/), { url: '/held/id?token=secret' })
})

t.test('the request id has one key, the one that Fastify uses in the log', async t => {
  const { log, report } = await cutOne(t, {}, addPlain)
  const about = log.lines.filter(({ msg }) => /^(?:incoming request|Request cut|Waiting for GET)/.test(msg))
  t.ok(about.length >= 3)
  for (const line of about) {
    t.equal(line.reqId, 'req-1', line.msg)
    t.notOk('requestId' in line, line.msg)
  }
  t.strictSame(Object.keys(report.cut[0] ?? {}), ['kind', 'method', 'route', 'url', 'reqId', 'age'])
})

t.test('the line of a request that is cut by writeTimeout hides what the serializer hides', async t => {
  expectWarnings(t, /disableRequestLogging option is deprecated/)
  const log = new Log()
  let text = ''
  const stream = { write: (chunk: string): void => { text += chunk; log.write(chunk) } }
  const app = Fastify({ logger: { level: 'debug', stream, serializers: { req: hideQuery } } }) as unknown as FastifyInstance
  const released = new Deferred()
  t.teardown(async () => {
    released.resolve()
    await app.close()
  })
  await app.register(gracefulPlugin, { writeTimeout: 100 })
  app.get('/held', async () => { await released.promise })
  const client = new RawClient(await listen(app)).get('/held?token=secret')
  t.match(await log.line(/^Request cut/), { url: '/held', reqId: 'req-1' })
  await client.closed
  t.notMatch(text, /secret/)
})

t.test('the URL is shown as rewriteUrl has left it, as in the lines of Fastify', async t => {
  const log = new Log()
  const rewriteUrl = ({ url = '' }: { url?: string | undefined }) => url.replace(/^\/token\/[^/]+/, '')
  const app = Fastify({ rewriteUrl, logger: { level: 'debug', stream: log } }) as unknown as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin)
  const { entered, release } = heldRoute(app)
  const client = new RawClient(await listen(app)).get('/token/secret/held')
  await entered
  t.match(app.gracefulShutdown.inFlight(), [{ url: '/held', route: '/held' }])
  release()
  await client.until(/"held"/)
})
