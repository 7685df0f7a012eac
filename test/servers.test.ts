import t from 'tap'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { resolveToBothLoopbacks } from './fixtures/loopbacks.ts'
import { createApp, eventually, heldRoute, listen, RawClient, socketPath } from './helpers.ts'

t.test('covers the second listener of localhost, which Fastify does not show', async t => {
  t.teardown(resolveToBothLoopbacks())
  const { app } = await createApp(t, { readTimeout: 200, writeTimeout: 10_000 })
  const held = heldRoute(app)
  await app.listen({ port: 0, host: 'localhost' })
  const addresses = app.addresses() as AddressInfo[]
  t.strictSame(addresses.map(({ address }) => address).sort(), ['127.0.0.1', '::1'])
  const slow = addresses.map(({ address, port }) => new RawClient(connect(port, address)).send('POST / HTTP/1.1\r\nContent-Le'))
  await eventually(() => slow.every(({ text }) => text.startsWith('HTTP/1.1 408')))
  const clients = addresses.map(({ address, port }) => new RawClient(connect(port, address)).get('/held'))
  await held.entered
  const silent = addresses.map(({ address, port }) => new RawClient(connect(port, address)))
  await Promise.all(silent.map(async ({ socket }) => { await once(socket, 'connect') }))
  await eventually(() => app.inFlightRequests === 2)
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await Promise.all([...clients, ...silent].map(async client => { await client.closed }))
  for (const client of clients) t.match(client.text, /200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
  const { phases, completed, exitCode } = await report
  t.match({ completed, exitCode }, { completed: 2, exitCode: 0 })
  t.ok(phases.closing < 500, `closing took ${phases.closing}ms`)
})

t.test('leaves other servers of the process alone', async t => {
  await createApp(t)
  const other = createServer()
  const { requestTimeout } = other
  other.listen(0, '127.0.0.1')
  await once(other, 'listening')
  t.equal(other.requestTimeout, requestTimeout)
  other.close()
})

t.test('works with a server factory and on a Unix socket', async t => {
  const path = socketPath(t)
  const app = Fastify({ serverFactory: handler => createServer((request, response) => { handler(request, response) }) })
  await app.register(gracefulPlugin)
  const held = heldRoute(app)
  await app.listen({ path })
  const client = new RawClient(path).get('/held')
  const idle = new RawClient(path)
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  held.release()
  await Promise.all([client.closed, idle.closed])
  t.match(client.text, '{"held":true}')
  t.match(await report, { completed: 1, exitCode: 0 })
})

for (const when of ['while running', 'while delaying']) {
  t.test(`a listener that somebody closes ${when} is the same way out, and tears nobody`, async t => {
    const { app } = await createApp(t, { shutdownDelay: 4_000 })
    const held = heldRoute(app)
    app.get('/', async () => 'served')
    let ran = 0
    app.registerShutdownCallback(() => { ran++ })
    const port = await listen(app)
    const idle = new RawClient(port).get('/')
    await idle.until(/served/)
    const busy = new RawClient(port).get('/held')
    await held.entered
    if (when === 'while delaying') void app.gracefulShutdown.shutdown('close')
    const closed = new Promise<void>(resolve => { app.server.close(() => { resolve() }) })
    await eventually(() => app.gracefulShutdown.phase === 'draining')
    await idle.get('/').closed
    t.match(idle.text, /served[^]*503 Service Unavailable/, 'an idle connection is still answered')
    held.release()
    await Promise.all([busy.closed, closed])
    t.match(busy.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close[^]*\{"held":true\}$/i)
    const report = await app.gracefulShutdown.wait()
    t.match(report, { reason: 'close', completed: 1, refused: 1, exitCode: 0 })
    t.ok(report.phases.delaying < 2_000, `no more delay: ${report.phases.delaying}ms`)
    t.equal(ran, 1)
  })
}

t.test('a server that could not listen at first is covered once', async t => {
  const { app } = await createApp(t)
  app.get('/', async () => 'served')
  await app.ready()
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const server = createServer(app.routing)
  server.listen((taken.address() as AddressInfo).port, '127.0.0.1')
  await once(server, 'error')
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const client = new RawClient((server.address() as AddressInfo).port).get('/')
  await client.until(/served/)
  t.strictSame(app.gracefulShutdown.inFlight(), [])
  t.match(await app.gracefulShutdown.shutdown(), { cut: [], exitCode: 0 })
  await client.closed
})

for (const whose of ['somebody else', 'one of them']) {
  t.test(`two instances that are handed requests of one connection, by a server of ${whose}, each count their own, and an owner what its connections have`, async t => {
    const { app: first } = await createApp(t)
    const { app: second } = await createApp(t)
    first.get('/first', async () => 'first')
    const held = heldRoute(second)
    await Promise.all([first.ready(), second.ready()])
    const dispatch = (request: IncomingMessage, response: ServerResponse): void => {
      const { routing } = request.url === '/first' ? first : second
      routing(request, response)
    }
    const server = whose === 'somebody else' ? createServer() : first.server
    server.removeAllListeners('request').on('request', dispatch)
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(() => server.close())
    const connected = once(server, 'connection') as Promise<[Socket]>
    const client = new RawClient((server.address() as AddressInfo).port).get('/first')
    await client.until(/first$/)
    client.get('/held')
    await held.entered
    // An instance whose connection it is would cut it off if it did not wait for it, too.
    const inFlight = whose === 'somebody else' ? [0, 1] : [1, 1]
    t.strictSame([first.inFlightRequests, second.inFlightRequests], inFlight)
    t.match(second.gracefulShutdown.inFlight(), [{ url: '/held' }])
    const [socket] = await connected
    const gone = new Promise(resolve => { socket.on('close', resolve) })
    client.socket.destroy()
    await gone
    t.equal(second.inFlightRequests, 1, 'its handler still runs')
    held.release()
    await eventually(() => first.inFlightRequests + second.inFlightRequests === 0)
  })
}
