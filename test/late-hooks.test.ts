// Hooks that run when a handler has ended and its client has disconnected, or has been answered in the handler's place, and streams that
// close then. Cleanup waits for them.

import t from 'tap'
import type { Test } from 'tap'
import type { FastifyInstance, FastifyReply, RouteHandlerMethod, RouteShorthandOptions } from 'fastify'
import type { ShutdownReport } from '../types/index.ts'
import { createReadStream } from 'node:fs'
import { connect as connectHttp2, constants } from 'node:http2'
import { type Duplex, PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { Response as UndiciResponse } from 'undici'
import { checkOften, createApp, createAppBehind, Deferred, eventually, heldRoute, listen, phaseBegins, RawClient } from './helpers.ts'

const handlers: Record<string, RouteHandlerMethod> = {
  'an async handler': async () => ({ answer: 1 }),
  'a handler that returns its reply': async (_request, reply) => await reply.send({ answer: 1 }),
  'a handler with a callback': (_request, reply) => { reply.send({ answer: 1 }) },
  'a handler that sends a large response': async () => 'x'.repeat(1_000_000),
  'a handler that fails': async () => { throw new Error('failed') },
  'a handler that throws': () => { throw new Error('failed') }
}

/** A hook that takes as long as the test wants. */
class SlowHook {
  readonly entered = new Deferred()
  readonly left = new Deferred()

  readonly hold = async (): Promise<void> => {
    this.entered.resolve()
    await this.left.promise
  }
}

type Add = (app: FastifyInstance, hook: SlowHook) => RouteShorthandOptions

const applicationHook = (name: 'onSend' | 'preSerialization' | 'onError' | 'onRequestAbort' | 'onResponse'): Add => (app, { hold }) => {
  app.addHook(name as 'onRequestAbort', async _request => { await hold() })
  return {}
}

/**
 * Makes a client send a request over HTTP/1 or HTTP/2, and returns what makes it leave.
 * @param part of a text body of 10 bytes; without one, there is no body
 */
function visitOver (t: Test, isHttp2: boolean, port: number, method = 'GET', part = ''): () => void {
  if (!isHttp2) {
    const body = part === '' ? '\r\n' : `Content-Type: text/plain\r\nContent-Length: 10\r\n\r\n${part}`
    const client = new RawClient(port).send(`${method} / HTTP/1.1\r\nHost: test\r\n${body}`)
    return () => { client.socket.destroy() }
  }
  const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
  t.teardown(() => { session.destroy() })
  const headers = { ':path': '/', ':method': method, ...part === '' ? {} : { 'content-type': 'text/plain' } }
  const stream = session.request(headers).on('error', () => {})
  if (part !== '') stream.write(part)
  return () => { stream.close(constants.NGHTTP2_CANCEL) }
}

/** Makes a client send a request, and leave while the hook runs. */
async function leaveDuring (t: Test, app: FastifyInstance, hook: SlowHook, isHttp2 = false): Promise<void> {
  const gone = new Deferred()
  app.addHook('onRequest', async (_request, reply) => { reply.raw.on('close', () => { gone.resolve() }) })
  const leave = visitOver(t, isHttp2, await listen(app))
  await hook.entered.promise
  leave()
  await gone.promise
}

/** Makes a client send half of a body, and leave, by default as soon as its request has arrived. */
async function leaveInMidBody (app: FastifyInstance, until?: Promise<unknown>): Promise<void> {
  const arrived = new Promise(resolve => { app.server.once('request', resolve) })
  const client = new RawClient(await listen(app)).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf')
  await (until ?? arrived)
  client.socket.destroy()
}

/** Shuts down while the hook runs. Cleanup runs after it. */
async function expectCleanupAfter (t: Test, app: FastifyInstance, hook: SlowHook): Promise<ShutdownReport> {
  const events: string[] = []
  app.gracefulShutdown.onShutdown(() => { events.push('cleanup') })
  const report = app.gracefulShutdown.shutdown()
  // A drain that waits for nothing ends within one turn.
  for (let turn = 0; turn < 20; turn++) await new Promise(resolve => { setImmediate(resolve) })
  t.equal(app.gracefulShutdown.phase, 'draining')
  events.push('hook ends')
  hook.left.resolve()
  t.match(await report, { errors: { length: 0 }, cut: { length: 0 }, exitCode: 0 })
  t.strictSame(events, ['hook ends', 'cleanup'])
  t.equal(app.inFlightRequests, 0)
  return await report
}

/** With hooks and handlers that are older than the plugin. */
const ahead: Record<string, (app: FastifyInstance, hook: SlowHook) => void> = {
  'an onSend hook': (app, hook) => { applicationHook('onSend')(app, hook) },
  'a preSerialization hook': (app, hook) => { applicationHook('preSerialization')(app, hook) },
  'an onError hook': (app, hook) => { applicationHook('onError')(app, hook) },
  'an error handler': (app, { hold }) => {
    app.setErrorHandler(async () => {
      await hold()
      return 'failed'
    })
  }
}

for (const isHttp2 of [false, true]) {
  for (const [what, add] of Object.entries(ahead)) {
    const isForErrors = what.includes('rror')
    for (const [name, handler] of Object.entries(handlers).slice(...isForErrors ? [4] : [0, 3])) {
      t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: cleanup waits for ${what} that is older than the plugin, after ${name} whose client has disconnected`, async t => {
        const hook = new SlowHook()
        const app = await createAppBehind(t, instance => { add(instance, hook) }, isHttp2 ? { http2: true } : {})
        app.get('/', handler)
        await leaveDuring(t, app, hook, isHttp2)
        await expectCleanupAfter(t, app, hook)
      })
    }
  }
}

const cases: Array<[name: string, add: Add, handlers: string[]]> = [
  ['an onSend hook', applicationHook('onSend'), Object.keys(handlers)],
  ['an onSend hook of the route', (_app, { hold }) => ({ onSend: async () => { await hold() } }), ['an async handler']],
  ['a preSerialization hook', applicationHook('preSerialization'), Object.keys(handlers).slice(0, 3)],
  ['an onError hook', applicationHook('onError'), Object.keys(handlers).slice(4)]
]

for (const isHttp2 of [false, true]) {
  for (const [what, add, names] of cases) {
    for (const name of names) {
      for (const isCut of [false, true]) {
        const whose = isCut ? 'whose request writeTimeout has cut' : 'whose client has disconnected'
        t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: cleanup waits for ${what} after ${name} ${whose}`, async t => {
          const { app, log } = await createApp(t, isCut ? { writeTimeout: 100 } : {}, isHttp2 ? { http2: true } as object : {})
          const hook = new SlowHook()
          const handler = handlers[name] as RouteHandlerMethod
          app.get('/', add(app, hook), handler)
          if (isCut) {
            visitOver(t, isHttp2, await listen(app))
            await hook.entered.promise
            await eventually(() => log.messages(/Request cut/).length > 0)
          } else {
            await leaveDuring(t, app, hook, isHttp2)
          }
          await expectCleanupAfter(t, app, hook)
        })
      }
    }
  }
}

t.test('cleanup waits for an onSend hook of the error that an upload causes whose client disconnects', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.addHook('onSend', async () => { await hook.hold() })
  app.post('/', async () => 'never')
  await leaveInMidBody(app)
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

const readers: Record<string, (app: FastifyInstance, hook: SlowHook) => void> = {
  'a body parser': (app, hook) => {
    app.addContentTypeParser('text/plain', async (_request: unknown, payload: AsyncIterable<Buffer>) => await read(payload, hook))
  },
  'a preParsing hook': (app, hook) => {
    app.addHook('preParsing', async (_request, _reply, payload) => await read(payload as AsyncIterable<Buffer>, hook))
  },
  'an onRequest hook': (app, hook) => {
    app.addHook('onRequest', async request => await read(request.raw, hook))
  }
}

/** Reads a body until its client disconnects, and works on. */
async function read (body: AsyncIterable<Buffer>, { hold }: SlowHook): Promise<never> {
  try {
    for await (const chunk of body) if (chunk.length > 100) throw new Error('too long')
  } catch {
    // It has left.
  }
  await hold()
  throw new Error('incomplete')
}

for (const [what, add] of Object.entries(readers)) {
  t.test(`HTTP/1: cleanup waits for ${what} that has read a body until its client disconnected`, async t => {
    const { app } = await createApp(t)
    const hook = new SlowHook()
    add(app, hook)
    app.post('/', async () => 'never')
    await leaveInMidBody(app)
    await hook.entered.promise
    await expectCleanupAfter(t, app, hook)
  })
}

t.test('cleanup waits for an onSend hook of the error of a hook that starts to read after its client has disconnected', async t => {
  const { app } = await createApp(t)
  const [entered, gone] = [new Deferred(), new Deferred()]
  const hook = new SlowHook()
  app.addHook('preParsing', async (_request, reply, payload) => {
    reply.raw.on('close', () => { gone.resolve() })
    entered.resolve()
    await gone.promise
    await pipeline(payload, new PassThrough().resume())
  })
  app.addHook('onSend', async () => { await hook.hold() })
  app.post('/', async () => 'never')
  await leaveInMidBody(app, entered.promise)
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

t.test('a web stream that an onSend hook gets, and that is never read, does not count once its client has disconnected', async t => {
  const { app } = await createApp(t)
  app.addHook('onSend', async (_request, _reply, payload) => payload)
  const entered = new Deferred()
  app.get('/', async () => {
    entered.resolve()
    return new ReadableStream()
  })
  const leave = visitOver(t, false, await listen(app))
  await entered.promise
  await eventually(() => app.inFlightRequests === 1)
  leave()
  await eventually(() => app.inFlightRequests === 0)
})

for (const isHttp2 of [false, true]) {
  for (const isCut of [false, true]) {
    const end = isCut ? 'writeTimeout has cut it' : 'its client has disconnected'
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a web stream that a handler with a callback sends, without a first byte, does not count once ${end}`, async t => {
      const { app, log } = await createApp(t, isCut ? { writeTimeout: 100 } : {}, isHttp2 ? { http2: true } as object : {})
      const sent = new Deferred()
      app.get('/', (_request, reply) => {
        reply.send(new ReadableStream())
        sent.resolve()
      })
      const leave = visitOver(t, isHttp2, await listen(app))
      await sent.promise
      t.equal(app.inFlightRequests, 1)
      if (isCut) await log.line(/^Request cut/)
      else leave()
      await eventually(() => app.inFlightRequests === 0)
    })
  }
}

t.test('a web stream that Fastify stops reading, because its response is destroyed, does not count forever', async t => {
  const { app } = await createApp(t)
  app.get('/', (_request, reply) => {
    const { raw } = reply
    const { write } = raw
    raw.write = (...args: unknown[]) => {
      write.apply(raw, args as never)
      queueMicrotask(() => {
        raw.destroy()
        raw.emit('drain')
      })
      return false
    }
    reply.send(new ReadableStream({ start (controller) { controller.enqueue(Buffer.from('first')) } }))
  })
  const client = new RawClient(await listen(app)).get('/')
  await client.closed
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

for (const isHttp2 of [false, true]) {
  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: cleanup waits for an onSend hook that gets a web stream, and whose client has disconnected`, async t => {
    const stream = () => new Response('answer').body as ReadableStream
    // The response of the package undici is not an instance of the global class.
    for (const answer of [stream, () => new Response('answer'), () => new UndiciResponse('answer')]) {
      const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
      const hook = new SlowHook()
      app.addHook('onSend', async () => { await hook.hold() })
      app.get('/', async () => answer())
      await leaveDuring(t, app, hook, isHttp2)
      await expectCleanupAfter(t, app, hook)
    }
  })
}

t.test('cleanup waits for an onSend hook that gets a web stream from another hook, and whose client has disconnected', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.addHook('onSend', async () => new Response('answer').body)
  app.addHook('onSend', async () => { await hook.hold() })
  app.get('/', async () => 'answer')
  await leaveDuring(t, app, hook)
  await expectCleanupAfter(t, app, hook)
})

t.test('cleanup waits for an onSend hook that reads a web stream, and whose client has disconnected', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.addHook('onSend', async (_request, _reply, payload) => {
    const text = await new Response(payload as ReadableStream).text()
    await hook.hold()
    return text
  })
  app.get('/', async () => new Response('answer').body)
  await leaveDuring(t, app, hook)
  await expectCleanupAfter(t, app, hook)
})

for (const isHttp2 of [false, true]) {
  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a request that its own handler destroys is over`, async t => {
    const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
    const called = new Deferred()
    app.get('/', async request => {
      if (isHttp2) (request.raw as unknown as { stream: Duplex }).stream.destroy()
      else request.raw.destroy()
      called.resolve()
    })
    visitOver(t, isHttp2, await listen(app))
    await called.promise
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('other code may replace send() of a reply, and call it', async t => {
  const { app } = await createApp(t)
  app.addHook('onRequest', async (_request, reply) => {
    const { send } = reply
    reply.send = payload => send.call(reply, `${String(payload)}, replaced`)
  })
  app.get('/', async () => 'answer')
  t.equal((await app.inject('/')).body, 'answer, replaced')
})

t.test('other code may replace send() and then() of all replies', async t => {
  const { app } = await createApp(t)
  const calls: string[] = []
  app.addHook('onRequest', async (_request, reply) => {
    if (calls.length > 0) return
    const prototype = Object.getPrototypeOf(reply) as Record<'send' | 'then', (...args: unknown[]) => unknown>
    for (const name of ['send', 'then'] as const) {
      const { [name]: method } = prototype
      prototype[name] = function (...args) {
        calls.push(name)
        return method.apply(this, args)
      }
    }
  })
  app.get('/', async (_request, reply) => {
    setImmediate(() => { reply.send('answer') })
    return reply
  })
  for (const _ of [1, 2]) t.equal((await app.inject('/')).body, 'answer')
  t.ok(calls.includes('send') && calls.includes('then'))
})

t.test('serves without a global Response, as with --no-experimental-fetch', async t => {
  const { Response } = globalThis
  t.teardown(() => { globalThis.Response = Response })
  Reflect.deleteProperty(globalThis, 'Response')
  const { app } = await createApp(t)
  app.addHook('onSend', async () => {})
  app.get('/', (_request, reply) => { reply.send('answer') })
  t.match(await app.inject('/'), { statusCode: 200, body: 'answer' })
})

t.test('an error handler with a callback, whose client has disconnected, counts until it answers', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  const gone = new Deferred()
  app.setErrorHandler((_error, _request, reply) => { void hook.hold().then(() => { void reply.code(500).send('stored') }) })
  app.get('/', async (_request, reply) => {
    hook.entered.resolve()
    reply.raw.on('close', () => { gone.resolve() })
    await gone.promise
    throw new Error('failed')
  })
  const leave = visitOver(t, false, await listen(app))
  await hook.entered.promise
  leave()
  await gone.promise
  await expectCleanupAfter(t, app, hook)
})

/** Routes whose handler returns its reply, with work that its promise does not tell of. */
const returnsReply: Record<string, Add> = {
  'an async handler that answers from a callback and returns its reply': (app, hook) => {
    app.get('/', async (_request, reply) => {
      void hook.hold().then(() => { reply.send('answer') })
      return reply
    })
    return {}
  },
  'a hook of the not-found handler that a handler calls before it returns its reply': (app, hook) => {
    app.setNotFoundHandler({ preHandler: async () => { await hook.hold() } }, (_request, reply) => { reply.code(404).send('not found') })
    app.get('/', async (_request, reply) => {
      reply.callNotFound()
      return reply
    })
    return {}
  },
  'a not-found handler with a callback that a handler calls before it returns its reply': (app, hook) => {
    app.setNotFoundHandler((_request, reply) => { void hook.hold().then(() => { reply.code(404).send('not found') }) })
    app.get('/', async (_request, reply) => {
      reply.callNotFound()
      return reply
    })
    return {}
  }
}

for (const isHttp2 of [false, true]) {
  for (const [what, add] of Object.entries(returnsReply)) {
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: cleanup waits for ${what}, also if its client has disconnected`, async t => {
      const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
      const hook = new SlowHook()
      add(app, hook)
      await leaveDuring(t, app, hook, isHttp2)
      await expectCleanupAfter(t, app, hook)
    })
  }
}

t.test('a not-found handler that is called after the request was over counts again', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  const gone = new Deferred()
  const entered = new Deferred()
  app.setNotFoundHandler(async () => {
    await hook.hold()
    return 'not found'
  })
  app.get('/', async (_request, reply) => {
    reply.raw.on('close', () => { gone.resolve() })
    entered.resolve()
    await gone.promise
    void eventually(() => app.inFlightRequests === 0).then(() => { reply.callNotFound() })
  })
  const leave = visitOver(t, false, await listen(app))
  await entered.promise
  leave()
  await hook.entered.promise
  t.equal(app.inFlightRequests, 1)
  await expectCleanupAfter(t, app, hook)
})

t.test('a hook that sets the status, works on and then sends, whose client has disconnected, counts until it sends', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  const gone = new Deferred()
  const entered = new Deferred()
  app.addHook('preHandler', async (_request, reply) => {
    reply.raw.on('close', () => { gone.resolve() })
    entered.resolve()
    await gone.promise
    reply.code(401)
    await hook.hold()
    return reply.send()
  })
  app.get('/', async () => 'not reached')
  const leave = visitOver(t, false, await listen(app))
  await entered.promise
  leave()
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

for (const isHttp2 of [false, true]) {
  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: an upload without a route whose client disconnects during a hook does not count once its body is awaited`, async t => {
    const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
    const hook = new SlowHook()
    const gone = new Deferred()
    app.addHook('onRequest', async (_request, reply) => {
      reply.raw.on('close', () => { gone.resolve() })
      await hook.hold()
    })
    const port = await listen(app)
    if (isHttp2) {
      const session = connectHttp2(`http://127.0.0.1:${port}`).on('error', () => {})
      t.teardown(() => { session.destroy() })
      const stream = session.request({ ':path': '/none', ':method': 'POST', 'content-type': 'application/json' }).on('error', () => {})
      stream.end('{}')
      await hook.entered.promise
      stream.close()
    } else {
      const client = new RawClient(port)
      client.send('POST /none HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
      await hook.entered.promise
      client.socket.destroy()
    }
    await gone.promise
    t.equal(app.inFlightRequests, 1)
    hook.left.resolve()
    await eventually(() => app.inFlightRequests === 0)
  })
}

/** What Fastify does after a slow hook, when the client has disconnected. Nothing of the request is left then. */
const ends: Record<string, (app: FastifyInstance, hook: SlowHook) => void> = {
  'an error handler that answers nothing': (app, { hold }) => {
    app.addHook('onError', async () => { await hold() })
    app.setErrorHandler(async () => {})
    app.get('/', async () => { throw new Error('failed') })
  },
  'an onSend hook that fails, for an error': (app, { hold }) => {
    app.addHook('onError', async () => { await hold() })
    app.addHook('onSend', async () => { throw new Error('failed again') })
    app.get('/', async () => { throw new Error('failed') })
  },
  'an onSend hook that fails, for the answer of a handler with a callback': (app, { hold }) => {
    app.addHook('onSend', async () => {
      await hold()
      throw new Error('failed')
    })
    app.get('/', (_request, reply) => { reply.send('answer') })
  },
  'an onSend hook that fails, for the answer of a handler that returns its reply': (app, { hold }) => {
    app.addHook('onSend', async () => {
      await hold()
      throw new Error('failed')
    })
    app.get('/', async (_request, reply) => await reply.send('answer'))
  },
  'a large response': (app, { hold }) => {
    app.addHook('onSend', async () => { await hold() })
    app.get('/', async () => 'x'.repeat(20_000_000))
  }
}

for (const isHttp2 of [false, true]) {
  for (const [what, set] of Object.entries(ends)) {
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a request whose client disconnects during a slow hook is over after ${what}`, async t => {
      const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
      const hook = new SlowHook()
      set(app, hook)
      await leaveDuring(t, app, hook, isHttp2)
      t.equal(app.inFlightRequests, 1)
      hook.left.resolve()
      await eventually(() => app.inFlightRequests === 0)
    })
  }

  t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: a request whose client disconnects while its large response is sent, after an onSend hook, is over`, async t => {
    const { app } = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
    app.addHook('onSend', async () => {})
    const sent = new Deferred()
    app.get('/', async (_request, reply) => {
      const { writeHead } = reply.raw
      reply.raw.writeHead = (...args: unknown[]) => {
        sent.resolve()
        return writeHead.apply(reply.raw, args as [number])
      }
      return 'x'.repeat(20_000_000)
    })
    const leave = visitOver(t, isHttp2, await listen(app))
    await sent.promise
    leave()
    await eventually(() => app.inFlightRequests === 0)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

// Fastify does so only if Node does not call the request aborted: it has read all of it.
t.test('cleanup waits for the onError hook of a stream without a first byte, whose client has disconnected after its body', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.addHook('onError', hook.hold)
  const entered = new Deferred()
  app.post('/', async () => {
    entered.resolve()
    return new Readable({ read () {} })
  })
  const client = new RawClient(await listen(app))
  client.send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody')
  await entered.promise
  client.socket.destroy()
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

t.test('cleanup waits for an onSend hook of a queued response, whose client has disconnected', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  const gone = new Deferred()
  app.addHook('onSend', async ({ url }) => { if (url === '/second') await hook.hold() })
  app.get('/first', async (_request, reply) => {
    reply.raw.on('close', () => { gone.resolve() })
    await gone.promise
  })
  app.get('/second', async () => 'second')
  const client = new RawClient(await listen(app)).get('/first').get('/second')
  await hook.entered.promise
  client.socket.destroy()
  await gone.promise
  await expectCleanupAfter(t, app, hook)
})

for (const [where, add] of Object.entries({
  'of the application': applicationHook('onRequestAbort'),
  'of the route': (_app, { hold }) => ({ onRequestAbort: async _request => { await hold() } })
} satisfies Record<string, Add>)) {
  t.test(`the drain waits for an onRequestAbort hook ${where}, and shows it`, async t => {
    const { app } = await createApp(t)
    const hook = new SlowHook()
    const entered = new Deferred()
    app.get('/', add(app, hook), async () => {
      entered.resolve()
      await hook.left.promise
    })
    const leave = visitOver(t, false, await listen(app))
    await entered.promise
    leave()
    await hook.entered.promise
    t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request' }, { kind: 'task', name: /^onRequestAbort hook/ }])
    await expectCleanupAfter(t, app, hook)
  })
}

for (const isHttp2 of [false, true]) {
  const over = `HTTP/${isHttp2 ? 2 : 1}`
  const start = async (t: Test) => {
    const created = await createApp(t, {}, isHttp2 ? { http2: true } as object : {})
    const hook = new SlowHook()
    t.teardown(() => { hook.left.resolve() })
    applicationHook('onRequestAbort')(created.app, hook)
    return { ...created, hook }
  }

  for (const heldBy of ['its handler', 'a hook', 'the not-found handler']) {
    t.test(`the drain does not wait for an onRequestAbort hook if ${heldBy} holds a request of a route that has opted out (${over})`, async t => {
      const { app, hook } = await start(t)
      const arrived = new Deferred()
      const hold = async () => {
        arrived.resolve()
        await hook.left.promise
      }
      const config = { gracefulShutdown: false as const }
      if (heldBy === 'its handler') app.get('/', { config }, hold)
      if (heldBy === 'a hook') app.get('/', { config, onRequest: hold }, async () => 'served')
      if (heldBy === 'the not-found handler') {
        app.setNotFoundHandler(hold)
        app.get('/', { config, preHandler: (_request, reply) => { reply.callNotFound() } }, async () => 'served')
      }
      const leave = visitOver(t, isHttp2, await listen(app))
      await arrived.promise
      leave()
      await hook.entered.promise
      t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
    })
  }

  t.test(`the drain does not wait for an onRequestAbort hook of a rejected request (${over})`, async t => {
    const { app, log, hook } = await start(t)
    const work = new Deferred()
    void app.gracefulShutdown.track(work.promise, 'work')
    app.post('/', async () => 'served')
    const port = await listen(app)
    const report = app.gracefulShutdown.shutdown()
    await log.line(/^Waiting for 1 background task/)
    const leave = visitOver(t, isHttp2, port, 'POST', 'half,')
    await log.line(/^incoming request$/)
    leave()
    await hook.entered.promise
    work.resolve()
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('Fastify rejects an onRequestAbort hook that is not a function', async t => {
  const { app } = await createApp(t)
  app.addHook('onRequestAbort', 'no function' as never)
  await t.rejects(async () => { await app.ready() }, { code: 'FST_ERR_HOOK_INVALID_HANDLER' })
})

t.test('an onRequestAbort hook with a callback runs, and is not waited for', async t => {
  const { app } = await createApp(t)
  const called = new Deferred()
  app.addHook('onRequestAbort', (_request, done) => {
    called.resolve()
    done()
  })
  const entered = new Deferred()
  app.get('/', async () => { entered.resolve() })
  app.addHook('onSend', async () => { await called.promise })
  const leave = visitOver(t, false, await listen(app))
  await entered.promise
  leave()
  await called.promise
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

for (const [where, add] of Object.entries({
  'of the application': applicationHook('onResponse'),
  'of the route': (_app, { hold }) => ({ onResponse: async () => { await hold() } })
} satisfies Record<string, Add>)) {
  for (const isHttp2 of [false, true]) {
    t.test(`cleanup waits for an async onResponse hook ${where}, over HTTP/${isHttp2 ? 2 : 1}`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const hook = new SlowHook()
      // The hooks run one after the other.
      app.addHook('onResponse', async () => {})
      app.get('/', add(app, hook), async () => 'answer')
      visitOver(t, isHttp2, await listen(app))
      await hook.entered.promise
      t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request', route: '/' }])
      const { completed, slowest } = await expectCleanupAfter(t, app, hook)
      t.equal(completed, 0, 'it was answered before')
      t.match(slowest, [{ kind: 'request', route: '/' }])
    })
  }
}

t.test('the age of a request continues while an async onResponse hook runs', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.get('/', { onResponse: async () => { await hook.hold() } }, async () => 'answer')
  visitOver(t, false, await listen(app))
  await hook.entered.promise
  const [before, start] = [app.gracefulShutdown.inFlight()[0], performance.now()]
  await sleep(50)
  const elapsed = Math.floor(performance.now() - start)
  const after = app.gracefulShutdown.inFlight()[0]
  t.ok(Number(after?.age) >= Number(before?.age) + elapsed - 1, `${before?.age}ms, ${elapsed}ms later ${after?.age}ms`)
  hook.left.resolve()
})

t.test('an async onResponse hook that does not end within drainTimeout is in the report', async t => {
  const { app } = await createApp(t, { drainTimeout: 50 })
  // The test holds it: a hook that nothing can resume is garbage, and may be forgotten before the drain ends.
  const hook = new SlowHook()
  t.teardown(hook.left.resolve)
  app.get('/', { onResponse: hook.hold }, async () => 'answer')
  const client = new RawClient(await listen(app)).get('/')
  await hook.entered.promise
  t.match(await app.gracefulShutdown.shutdown(), { completed: 0, cut: [{ kind: 'request', route: '/' }], exitCode: 1 })
  t.match(client.text, /200 OK[^]*answer$/)
})

t.test('onResponse hooks of probes, of opted-out routes and of rejected requests are not waited for', async t => {
  const { app } = await createApp(t)
  const urls: string[] = []
  app.addHook('onResponse', async ({ url }) => {
    urls.push(url)
    if (url !== '/held') await new Promise(() => {})
  })
  const { entered, release } = heldRoute(app)
  app.get('/opted-out', { config: { gracefulShutdown: false } }, async () => 'answer')
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await entered
  for (const path of ['/health', '/opted-out']) await new RawClient(port).get(path, ['Connection: close']).closed
  const report = app.gracefulShutdown.shutdown()
  const late = new RawClient(port).get('/late')
  await late.closed
  t.match(late.text, /^HTTP\/1\.1 503/)
  await eventually(() => urls.length === 3)
  t.strictSame(urls, ['/health', '/opted-out', '/late'])
  t.match(app.gracefulShutdown.inFlight(), [{ url: '/held' }])
  release()
  await client.closed
  t.match(await report, { completed: 1, refused: 1, cut: { length: 0 }, exitCode: 0 })
})

t.test('cleanup waits for an async onTimeout hook', async t => {
  const { app } = await createApp(t, {}, { connectionTimeout: 100 })
  const hook = new SlowHook()
  app.addHook('onTimeout', hook.hold)
  app.get('/', async (_request, reply) => {
    await hook.entered.promise
    return await reply.send('late')
  })
  new RawClient(await listen(app)).get('/')
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

t.test('an onResponse hook with a callback runs, and is not waited for', async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.addHook('onResponse', (_request, _reply, done) => { void hook.hold().then(() => { done() }) })
  app.get('/', async () => 'answer')
  const client = new RawClient(await listen(app)).get('/')
  await hook.entered.promise
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  await client.closed
  hook.left.resolve()
})

t.test('an onResponse hook that begins after the drain has timed out, and runs when cleanup starts, is in the report', async t => {
  const { app } = await createApp(t, { drainTimeout: 50 })
  const { entered } = heldRoute(app)
  const answered = new Deferred()
  app.get('/ready-answer', { onResponse: async () => { await new Promise(() => {}) } }, async () => {
    queueMicrotask(answered.resolve)
    return 'answer'
  })
  const client = new RawClient(await listen(app)).get('/held').get('/ready-answer')
  await entered
  await answered.promise
  const { cut, exitCode } = await app.gracefulShutdown.shutdown()
  t.match(client.text, /^HTTP\/1\.1 503[^]*HTTP\/1\.1 200 OK[^]*answer$/)
  t.match(cut, [{ route: '/held' }, { route: '/ready-answer' }])
  t.equal(exitCode, 1)
})

t.test("with waitFor: 'response', an async onResponse hook is not waited for", async t => {
  const { app } = await createApp(t)
  const hook = new SlowHook()
  app.get('/', { onResponse: hook.hold, config: { gracefulShutdown: { waitFor: 'response' } } }, async () => 'answer')
  await new RawClient(await listen(app)).get('/').until(/answer/)
  await hook.entered.promise
  const { phases, ...report } = await app.gracefulShutdown.shutdown()
  t.match(report, { cut: { length: 0 }, exitCode: 0 })
  t.ok(phases.draining < 700, `drained for ${phases.draining}ms`)
  hook.left.resolve()
})

/** Lazy, as query builders are: each call of `then` repeats the work. */
class LazyWork {
  calls = 0
  readonly hook = new SlowHook()

  readonly start = (): PromiseLike<void> => {
    // oxlint-disable-next-line unicorn/no-thenable
    return { then: (...callbacks) => {
      this.calls++
      return this.hook.hold().then(...callbacks)
    } }
  }
}

t.test('an onResponse hook that takes no callback and returns no promise keeps no request in flight', async t => {
  const { app } = await createApp(t)
  const ran = new Deferred()
  // Fastify waits forever before it runs the next hook.
  app.addHook('onResponse', (_request, _reply): any => { ran.resolve() }) // oxlint-disable-line no-explicit-any
  app.get('/', async () => 'answer')
  await new RawClient(await listen(app)).get('/').until(/answer/)
  await ran.promise
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('cleanup does not wait for a hook that returns a frozen thenable', async t => {
  const { app } = await createApp(t)
  const work = new LazyWork()
  app.addHook('onResponse', (_request): any => Object.freeze(work.start())) // oxlint-disable-line no-explicit-any
  app.get('/', async () => 'answer')
  await new RawClient(await listen(app)).get('/').until(/answer/)
  await work.hook.entered.promise
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  t.equal(work.calls, 1)
})

for (const name of ['onResponse', 'onRequestAbort'] as const) {
  t.test(`cleanup waits for an ${name} hook that returns a thenable, whose \`then\` is called once`, async t => {
    const { app } = await createApp(t)
    const work = new LazyWork()
    app.addHook(name as 'onResponse', (_request): any => work.start()) // oxlint-disable-line no-explicit-any
    const route = heldRoute(app)
    const client = new RawClient(await listen(app)).get('/held')
    await route.entered
    if (name === 'onRequestAbort') client.socket.destroy()
    else route.release()
    await work.hook.entered.promise
    const report = app.gracefulShutdown.shutdown()
    await phaseBegins(app, 'draining')
    await sleep(50)
    t.equal(app.gracefulShutdown.phase, 'draining')
    route.release()
    work.hook.left.resolve()
    t.match(await report, { cut: { length: 0 }, exitCode: 0 })
    t.equal(work.calls, 1)
  })
}

/** A stream with an end, or without one; `destroy` is its cleanup, such as that of a database cursor. */
function rows (isEndless: boolean, destroy: () => Promise<void>): Readable {
  let left = isEndless ? Infinity : 2
  return new Readable({
    read () { setImmediate(() => { this.push(left-- > 0 ? 'row' : null) }) },
    destroy (reason, done) { void destroy().then(() => { done(reason) }) }
  })
}

const sources: Record<string, (isEndless: boolean, cleanup: () => Promise<void>) => Readable> = {
  'an async generator': (isEndless, cleanup) => Readable.from((async function * () {
    try {
      for (let left = isEndless ? Infinity : 2; left > 0; left--) {
        yield 'row'
        await sleep(1)
      }
    } finally {
      await cleanup()
    }
  })()),
  'a stream': rows
}

/** Adds a route that sends a stream. Resolves once Fastify has begun to read it. */
async function sendStream (app: FastifyInstance, make: () => Readable): Promise<void> {
  const piped = new Deferred()
  app.get('/', async (_request, reply) => {
    reply.raw.once('pipe', () => { setImmediate(piped.resolve) })
    return await reply.send(make())
  })
  await piped.promise
}

for (const [what, make] of Object.entries(sources)) {
  for (const isHttp2 of [false, true]) {
    t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: other cleanup waits for that of ${what} whose client has disconnected`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const hook = new SlowHook()
      const begun = sendStream(app, () => make(true, hook.hold))
      const leave = visitOver(t, isHttp2, await listen(app))
      await begun
      leave()
      await hook.entered.promise
      t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request', route: '/' }])
      await expectCleanupAfter(t, app, hook)
    })

    // That of a generator ends before its last chunk is sent.
    if (what !== 'an async generator') {
      t.test(`${isHttp2 ? 'HTTP/2' : 'HTTP/1'}: other cleanup waits for that of ${what} that has been sent to its end`, async t => {
        const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
        const hook = new SlowHook()
        const sent = new Deferred()
        // The drain does not wait for a hook with a callback.
        app.addHook('onResponse', (_request, _reply, done) => { setImmediate(sent.resolve); done() })
        app.get('/', async (_request, reply) => await reply.send(make(false, hook.hold)))
        visitOver(t, isHttp2, await listen(app))
        await Promise.all([hook.entered.promise, sent.promise])
        t.match(app.gracefulShutdown.inFlight(), [{ kind: 'request', route: '/' }])
        t.equal(app.inFlightRequests, 1)
        await expectCleanupAfter(t, app, hook)
      })
    }
  }
}

for (const isHttp2 of [false, true]) {
  const protocol = isHttp2 ? 'HTTP/2' : 'HTTP/1'

  for (const [method, status] of [['HEAD', 200], ['GET', 204]] as const) {
    t.test(`${protocol}: other cleanup waits for a stream although ${method} with status ${status} has no body: Fastify reads it`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const hook = new SlowHook()
      app.get('/', async (_request, reply) => await reply.code(status).send(Readable.from((async function * () {
        yield 'row'
        await hook.hold()
      })())))
      visitOver(t, isHttp2, await listen(app), method)
      await hook.entered.promise
      t.equal(app.inFlightRequests, 1)
      await expectCleanupAfter(t, app, hook)
    })
  }

  // As @fastify/compress does. Over HTTP/2, Fastify does not read it to its end if the response has no body, nor end the response, and
  // Node then emits no 'close' on that.
  for (const isReset of isHttp2 ? [false, true] : [false]) {
    const end = isReset ? 'its client has reset it' : 'it has been answered'
    t.test(`${protocol}: a HEAD whose handler awaits its reply, and whose stream a hook has replaced, is over once ${end}`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const [sent, closed, hasWorkedOn] = [new Deferred(), new Deferred(), new Deferred()]
      app.addHook('onSend', async ({ raw }, _reply, source) => {
        (raw as unknown as { stream?: Duplex }).stream?.once('close', () => { closed.resolve() })
        sent.resolve()
        if (isReset) await closed.promise
        return (source as Readable).pipe(new PassThrough())
      })
      // Fastify drops the stream if it has added the route for HEAD itself.
      app.head('/', async (_request, reply) => {
        await reply.send(Readable.from(['row', 'row']))
        hasWorkedOn.resolve()
      })
      const leave = visitOver(t, isHttp2, await listen(app), 'HEAD')
      await sent.promise
      if (isReset) leave()
      await hasWorkedOn.promise
      await eventually(() => app.inFlightRequests === 0)
      t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    })
  }

  for (const [what, make] of Object.entries({
    'a file': () => createReadStream(new URL(import.meta.url)),
    'a list of rows': () => Readable.from(['row', 'row']),
    'a slow query': () => Readable.from((async function * () {
      yield 'row'
      await new Promise(resolve => { setImmediate(resolve) })
      yield 'row'
    })())
  })) {
    t.test(`${protocol}: a HEAD whose own route returns ${what} is over once it has been answered`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const answered = new Deferred()
      app.head('/', async ({ raw }) => {
        const { stream } = raw as unknown as { stream?: Duplex }
        if (stream === undefined) answered.resolve()
        else stream.once('close', () => { answered.resolve() })
        return make()
      })
      visitOver(t, isHttp2, await listen(app), 'HEAD')
      await answered.promise
      const { phases, ...report } = await app.gracefulShutdown.shutdown()
      t.match(report, { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
      t.ok(phases.draining < 5_000, `drained for ${phases.draining} ms`)
    })
  }

  for (const isAsync of [false, true]) {
    const handler = isAsync ? 'an async handler' : 'a handler with a callback'
    t.test(`${protocol}: other cleanup waits for that of a stream that ${handler} sends after its client has disconnected`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const hook = new SlowHook()
      const [entered, gone] = [new Deferred(), new Deferred()]
      const send = async (reply: FastifyReply): Promise<Readable> => {
        reply.raw.once('close', () => { setImmediate(gone.resolve) })
        entered.resolve()
        await gone.promise
        const stream = rows(true, hook.hold)
        // Over HTTP/2, Fastify neither reads nor destroys it.
        if (isHttp2) setImmediate(() => { stream.destroy() })
        return stream
      }
      if (isAsync) app.get('/', async (_request, reply) => await send(reply))
      else app.get('/', (_request, reply) => { void send(reply).then(stream => { void reply.send(stream) }) })
      const leave = visitOver(t, isHttp2, await listen(app))
      await entered.promise
      leave()
      await hook.entered.promise
      await expectCleanupAfter(t, app, hook)
    })

    t.test(`${protocol}: other cleanup waits for that of a stream that ${handler} of errors sends, and whose client disconnects`, async t => {
      const { app } = await createApp(t, {}, (isHttp2 ? { http2: true } : {}) as object)
      const hook = new SlowHook()
      const piped = new Deferred()
      const send = (reply: FastifyReply): Readable => {
        reply.raw.once('pipe', () => { setImmediate(piped.resolve) })
        return rows(true, hook.hold)
      }
      if (isAsync) app.setErrorHandler(async (_error, _request, reply) => send(reply))
      else app.setErrorHandler((_error, _request, reply) => { void reply.send(send(reply)) })
      app.get('/', async () => { throw new Error('on purpose') })
      const leave = visitOver(t, isHttp2, await listen(app))
      await piped.promise
      leave()
      await hook.entered.promise
      await expectCleanupAfter(t, app, hook)
    })
  }
}

t.test('other cleanup waits for that of a stream with `emitClose: false`, which no event tells of', async t => {
  const { app } = await createApp(t)
  checkOften(app)
  const hook = new SlowHook()
  const begun = sendStream(app, () => new Readable({
    emitClose: false,
    read () { setImmediate(() => { this.push('row') }) },
    destroy (reason, done) { void hook.hold().then(() => { done(reason) }) }
  }))
  const leave = visitOver(t, false, await listen(app))
  await begun
  leave()
  await hook.entered.promise
  await expectCleanupAfter(t, app, hook)
})

/** Streams that nothing ends. */
const endless: Record<string, { status: number, give: (app: FastifyInstance, stream: Readable) => void, leaves?: boolean }> = {
  'an onSend hook has replaced it': {
    status: 200,
    give: (app, stream) => app.get('/', { onSend: async () => 'replaced' }, async () => stream)
  },
  'it has emitted an error, and is not destroyed': {
    status: 500,
    give: (app, stream) => app.get('/', async (_request, reply) => {
      setImmediate(() => { stream.emit('error', new Error('on purpose')) })
      return await reply.send(stream)
    })
  },
  'its client has disconnected, and Fastify calls its close() because it has no destroy()': {
    status: 200,
    give: (app, stream) => app.get('/', async (_request, reply) => await reply.send(Object.assign(stream, { destroy: undefined, close: () => {} }))),
    leaves: true
  }
}

for (const [why, { status, give, leaves = false }] of Object.entries(endless)) {
  t.test(`a stream that never ends, because ${why}, is not waited for`, async t => {
    const { app } = await createApp(t)
    let isSent = false
    const stream = new Readable({ read () { if (!isSent && status === 200) isSent = this.push('row') } })
    give(app, stream)
    const client = new RawClient(await listen(app)).get('/')
    await client.until(new RegExp(`HTTP/1.1 ${status} `))
    if (leaves) client.socket.destroy()
    await eventually(() => app.inFlightRequests === 0)
    t.equal(stream.closed, false)
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('a request whose stream never closes no longer counts after drainTimeout, and is logged', async t => {
  for (const isEndless of [false, true]) {
    const { app, log } = await createApp(t, { drainTimeout: 100 })
    checkOften(app)
    const hook = new SlowHook()
    const begun = sendStream(app, () => rows(isEndless, hook.hold))
    const leave = visitOver(t, false, await listen(app))
    await begun
    if (isEndless) leave()
    await hook.entered.promise
    t.match(await log.line(/^A handler or its stream has not ended since/), { route: '/' })
    t.equal(app.inFlightRequests, 0)
    hook.left.resolve()
    t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
  }
})

t.test("a stream that never closes is cut at the drain timeout, and is not waited for with waitFor: 'response'", async t => {
  for (const options of [{}, { waitFor: 'response' as const }]) {
    const { app } = await createApp(t, { drainTimeout: 100 })
    const hook = new SlowHook()
    app.get('/', { config: { gracefulShutdown: options } }, async (_request, reply) => await reply.send(rows(false, hook.hold)))
    const client = new RawClient(await listen(app)).get('/')
    await hook.entered.promise
    await client.until(/0\r\n\r\n$/)
    const count = 'waitFor' in options ? 0 : 1
    await eventually(() => app.inFlightRequests === count)
    const { cut } = await app.gracefulShutdown.shutdown()
    t.match(cut, [{ kind: 'request', route: '/' }].slice(0, count))
    t.equal(cut.length, count)
  }
})

const answers: Record<string, () => unknown> = {
  'a large body': () => 'x'.repeat(1_000_000),
  'a file': () => createReadStream(process.execPath)
}
const senders: Record<string, (answer: () => unknown) => RouteHandlerMethod> = {
  'a handler that awaits its reply': answer => async (_request, reply) => { await reply.send(answer()) },
  'a handler that returns its reply': answer => async (_request, reply) => reply.send(answer()),
  'a handler that returns it': answer => async () => answer(),
  'a handler with a callback': answer => (_request, reply) => { reply.send(answer()) }
}

for (const [what, answer] of Object.entries(answers)) {
  for (const [which, createHandler] of Object.entries(senders)) {
    t.test(`HTTP/2: ${which} answers with ${what}: the request is over once its client has reset it without an error`, async t => {
      const { app } = await createApp(t, {}, { http2: true } as object)
      checkOften(app)
      app.get('/', createHandler(answer))
      const session = connectHttp2(`http://127.0.0.1:${await listen(app)}`)
      t.teardown(() => { session.destroy() })
      const stream = session.request()
      stream.on('response', () => { stream.close(constants.NGHTTP2_NO_ERROR) })
      await new Promise(resolve => { stream.on('close', resolve) })
      await eventually(() => app.inFlightRequests === 0)
      t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, errors: { length: 0 }, exitCode: 0 })
    })
  }
}
