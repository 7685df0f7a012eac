// onRoute hooks of other code see each route as its author has written it, and what they add is observed.

import t from 'tap'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteHandlerMethod, RouteOptions, preValidationAsyncHookHandler } from 'fastify'
import { once } from 'node:events'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { createApp, createAppBehind, Deferred, eventually, heldRoute, listen, RawClient } from './helpers.ts'

const authenticate: preValidationAsyncHookHandler = async (request, reply) => {
  if (request.headers.authorization !== 'secret') return await reply.code(401).send('who?')
  return undefined
}

t.test('an onRoute hook adds a default for hooks that a route has none of', async t => {
  const { app } = await createApp(t)
  app.addHook('onRoute', route => { route.preValidation ??= authenticate })
  app.post('/orders', async () => 'created')
  app.delete('/orders', async () => 'deleted')
  app.get('/orders', async () => 'orders')
  for (const method of ['POST', 'DELETE', 'GET'] as const) {
    t.equal((await app.inject({ method, url: '/orders' })).statusCode, 401, method)
    t.equal((await app.inject({ method, url: '/orders', headers: { authorization: 'secret' } })).statusCode, 200, method)
  }
})

t.test('an onRoute hook adds a default for routes with options of the plugin, and for those that have opted out', async t => {
  const { app } = await createApp(t)
  app.addHook('onRoute', route => { route.onRequest ??= authenticate })
  app.get('/slow', { config: { gracefulShutdown: { writeTimeout: 5_000 } } }, async () => 'slow')
  app.get('/out', { config: { gracefulShutdown: false } }, async () => 'out')
  for (const url of ['/slow', '/out']) {
    t.equal((await app.inject(url)).statusCode, 401, url)
    t.equal((await app.inject({ url, headers: { authorization: 'secret' } })).statusCode, 200, url)
  }
})

t.test('each onRoute hook gets the handler and the hooks of the author, in every context', async t => {
  const { app } = await createApp(t)
  const seen: unknown[] = []
  const HOOKS = ['onRequest', 'preParsing', 'preValidation', 'preSerialization', 'onSend', 'onError', 'onRequestAbort'] as const
  const look = (route: RouteOptions): void => {
    const { handler, errorHandler } = route
    seen.push([handler, errorHandler, ...HOOKS.map(name => route[name])])
  }
  app.addHook('onRoute', look)
  const handler: RouteHandlerMethod = async () => 'handled'
  const errorHandler = (_error: unknown, _request: unknown, reply: FastifyReply): void => { void reply.send('failed') }
  const onSend = async (): Promise<void> => {}
  const onRequestAbort = async (_request: unknown): Promise<void> => {}
  await app.register(async child => {
    child.addHook('onRoute', look)
    child.post('/', { handler, errorHandler, onSend, onRequestAbort, config: { gracefulShutdown: { readTimeout: 1_000 } } })
  })
  const written = [handler, errorHandler, undefined, undefined, undefined, undefined, onSend, undefined, onRequestAbort]
  t.strictSame(seen.length, 2)
  for (const values of seen as unknown[][]) for (const [index, value] of values.entries()) t.equal(value, written[index])
})

t.test('defaults that are added until the application is ready take effect on every route', async t => {
  const { app } = await createApp(t)
  const guards: Array<typeof authenticate> = []
  app.addHook('onRoute', route => {
    app.after(() => {
      route.onRequest ??= async () => {}
      route.preParsing ??= async () => {}
      route.preValidation ??= authenticate
    })
  })
  app.post('/body', async () => 'secret')
  app.get('/options', { config: { gracefulShutdown: { writeTimeout: 5_000 } } }, async () => 'secret')
  app.get('/out', { config: { gracefulShutdown: false } }, async () => 'secret')
  app.post('/list', { preValidation: guards }, async () => 'secret')
  await app.register(async () => { guards.push(authenticate) })
  for (const [method, url] of [['POST', '/body'], ['GET', '/options'], ['GET', '/out'], ['POST', '/list']] as const) {
    t.equal((await app.inject({ method, url })).statusCode, 401, url)
    t.equal((await app.inject({ method, url, headers: { authorization: 'secret' } })).statusCode, 200, url)
  }
})

t.test('routes look as their author has written them, once they have been added, and when the application is ready', async t => {
  const routes: RouteOptions[] = []
  const handler: RouteHandlerMethod = async () => 'handled'
  const look = (): void => {
    for (const route of routes) {
      t.equal(route.handler, handler)
      for (const name of ['onRequest', 'preParsing', 'preValidation', 'onSend', 'onRequestAbort']) t.notOk(name in route, name)
    }
  }
  const app = await createAppBehind(t, instance => { instance.addHook('onReady', async () => { look() }) })
  app.addHook('onRoute', route => { routes.push(route) })
  app.post('/', handler)
  await Promise.resolve()
  t.equal(routes[0]?.handler, handler)
  await app.ready()
  t.equal(routes.length, 1)
  look()
  t.equal((await app.inject({ method: 'POST', url: '/' })).body, 'handled')
})

t.test('a route that an onRoute hook freezes is served as with Fastify alone, and can opt out', async t => {
  const { app } = await createApp(t, { writeTimeout: 200 })
  app.addHook('onRoute', route => { Object.freeze(route) })
  const { entered, release } = heldRoute(app, '/out', { gracefulShutdown: false })
  app.post('/', async () => 'handled')
  const port = await listen(app)
  t.equal((await app.inject({ method: 'POST', url: '/' })).body, 'handled')
  const client = new RawClient(port).get('/out')
  await entered
  // As soon as a sweep finds it.
  await eventually(() => app.inFlightRequests === 0)
  release()
  await client.until(/"held":true/)
})

t.test('a frozen list of onRequestAbort hooks is accepted', async t => {
  const { app } = await createApp(t)
  app.get('/', { onRequestAbort: Object.freeze([async (_request: unknown) => {}]) as never }, async () => 'served')
  t.equal((await app.inject('/')).body, 'served')
})

t.test('hooks that are pushed to the onRequestAbort list of a route are called, and waited for', async t => {
  const { app } = await createApp(t)
  const called: string[] = []
  const left = new Deferred()
  const list: Array<(request: FastifyRequest) => Promise<void>> = []
  const entered = new Deferred()
  app.get('/', { onRequestAbort: list }, async () => {
    entered.resolve()
    await left.promise
  })
  list.push(async () => {
    await left.promise
    called.push('hook')
  })
  const client = new RawClient(await listen(app)).get('/')
  await entered.promise
  client.socket.destroy()
  await eventually(() => app.gracefulShutdown.inFlight().some(({ kind }) => kind === 'task'))
  app.gracefulShutdown.onShutdown(() => { called.push('callback') })
  const report = app.gracefulShutdown.shutdown()
  left.resolve()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
  t.strictSame(called, ['hook', 'callback'])
})

t.test('code that wraps the hooks that plugins add, such as @fastify/otel, changes nothing', async t => {
  const app = await createAppBehind(t, instance => {
    const { addHook } = instance as unknown as { addHook: (name: string, hook: (...args: unknown[]) => unknown) => FastifyInstance }
    const wrapping: typeof addHook = function (this: FastifyInstance, name, hook) {
      const isSync = hook.constructor.name !== 'AsyncFunction'
      const wrapped = name === 'onRoute' || !isSync ? hook : function (this: unknown, request: unknown, reply: unknown, done: unknown) { return hook.call(this, request, reply, done) }
      return addHook.call(this, name, wrapped)
    }
    Object.assign(instance, { addHook: wrapping })
  })
  const counts: number[] = []
  app.get('/out', { config: { gracefulShutdown: false } }, async () => { counts.push(app.inFlightRequests) })
  app.addContentTypeParser('text/own', (_request, payload, done) => { payload.resume().on('end', () => { done(null, 'body') }).on('error', done) })
  app.post('/', async () => 'never')
  const port = await listen(app)
  await app.inject('/out')
  t.strictSame(counts, [0])
  const client = new RawClient(port).send('POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/own\r\nContent-Length: 10\r\n\r\nhalf')
  await eventually(() => app.inFlightRequests === 1)
  client.socket.destroy()
  await eventually(() => app.inFlightRequests === 0)
  t.match(await app.gracefulShutdown.shutdown(), { cut: { length: 0 }, exitCode: 0 })
})

t.test('a handler that an onRoute hook puts in place counts until it is done, although it has answered', async t => {
  const { app } = await createApp(t)
  const released = new Deferred()
  app.addHook('onRoute', route => {
    route.handler = async (_request, reply) => {
      void reply.send('early')
      await released.promise
    }
  })
  app.get('/', async () => 'answer')
  const client = new RawClient(await listen(app)).get('/')
  await client.until(/early/)
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.inFlightRequests, 1)
  t.equal(app.gracefulShutdown.phase, 'draining')
  released.resolve()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('an onSend hook that an onRoute hook adds is waited for, although the client has disconnected', async t => {
  const { app } = await createApp(t)
  let entered: ((request: FastifyRequest) => void) | undefined
  const entering = new Promise<FastifyRequest>(resolve => { entered = resolve })
  const released = new Deferred()
  app.addHook('onRoute', route => {
    route.onSend = async request => {
      entered?.(request)
      await released.promise
    }
  })
  app.get('/', async () => 'answer')
  const client = new RawClient(await listen(app)).get('/')
  const { raw: { socket } } = await entering
  client.socket.destroy()
  await once(socket, 'close')
  const report = app.gracefulShutdown.shutdown()
  t.equal(app.inFlightRequests, 1)
  released.resolve()
  t.match(await report, { cut: { length: 0 }, exitCode: 0 })
})

t.test('an onRoute hook of a context that is older than the plugin is called as with Fastify alone', async t => {
  const app = Fastify()
  t.teardown(async () => { await app.close() })
  let child = app
  await app.register(async instance => { child = instance as typeof app })
  await app.register(gracefulPlugin)
  const seen: unknown[] = []
  child.addHook('onRoute', ({ url, handler }) => { seen.push([url, handler]) })
  const handler = async (): Promise<string> => 'handled'
  child.get('/', { exposeHeadRoute: false }, handler)
  t.strictSame(seen, [['/', handler]])
  t.equal((await app.inject('/')).body, 'handled')
})

t.test('what is no handler or no hook is rejected as by Fastify alone', async t => {
  const routes: object[] = [
    { method: 'GET', handler: 'users.list' },
    { method: 'POST', handler: {} },
    { method: 'POST', handler: async () => '', preParsing: null },
    { method: 'POST', handler: async () => '', preValidation: [null] },
    { method: 'GET', handler: async () => '', onRequest: 'none', config: { gracefulShutdown: false } },
    { method: 'GET', handler: async () => '', onSend: 1 },
    { method: 'GET', handler: async () => '', errorHandler: 'none' }
  ]
  for (const route of routes) {
    const { app } = await createApp(t)
    const alone = Fastify()
    t.teardown(async () => { await alone.close() })
    const errorOf = (instance: FastifyInstance): { code?: string, message: string } => {
      try {
        instance.route({ url: '/', ...route } as RouteOptions)
      } catch (error) {
        return error as Error
      }
      return { message: 'none' }
    }
    const { code, message } = errorOf(alone)
    t.not(message, 'none')
    t.match(errorOf(app), { code, message })
  }
})
