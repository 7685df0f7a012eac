// SIGTERM arrives while a response is in progress: the client receives all of its bytes, and the process exits with 0.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { createApp, Deferred, eventually, fork, listen, RawClient, socketPath } from '../helpers.ts'

const MIB = 1024 * 1024

const json = (query: object) => JSON.stringify({ query, items: Array.from({ length: 1_000 }, (_, index) => ({ index })) })
const streamed = ['first ', ...Array.from({ length: 100 }, (_, part) => `part ${part} `), 'last'].join('')
const big = (size: number): Buffer => {
  const bytes = Buffer.alloc(size)
  for (let index = 0; index < size; index += 1_000) bytes[index] = index / 1_000
  return bytes
}
const hash = (data: Buffer | string) => createHash('sha256').update(data).digest('hex')

async function start (t: Test, env: Record<string, string> = {}): Promise<{ service: Program, port: number, ports: number[] }> {
  const service = fork(t, 'answers', env)
  const { ports } = await service.log.line(/^ready$/) as unknown as { ports: number[] }
  return { service, port: ports[0] as number, ports }
}

/** Sends SIGTERM once this number of requests has arrived. */
async function stop (service: Program, requests = 1): Promise<void> {
  await eventually(() => service.log.messages(/^request is in$/).length === requests, 30_000)
  service.kill('SIGTERM')
}

async function exited (t: Test, service: Program, completed = 1): Promise<void> {
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.match(await service.log.line(/^Graceful shutdown complete$/), { report: { reason: 'SIGTERM', completed, cut: { length: 0 }, errors: { length: 0 } } })
}

interface Answer {
  head: string
  body: string
  trailers: string
}

/** Parses a response, including a chunked body. */
function parse (text: string): Answer {
  const end = text.indexOf('\r\n\r\n')
  const head = text.slice(0, end)
  let rest = text.slice(end + 4)
  if (!/transfer-encoding: chunked/i.test(head)) return { head, body: rest, trailers: '' }
  let body = ''
  for (;;) {
    const line = rest.indexOf('\r\n')
    const size = parseInt(rest.slice(0, line), 16)
    if (size === 0) return { head, body, trailers: rest.slice(line + 2) }
    body += rest.slice(line + 2, line + 2 + size)
    rest = rest.slice(line + 4 + size)
  }
}

const CONNECTION_CLOSE = /^connection: close$/im

/** Stops the service, and checks that the client's request for `/json?a=1` is answered. */
async function expectAnswer (t: Test, service: Program, client: RawClient): Promise<void> {
  await stop(service)
  await client.closed
  const { head, body } = parse(client.text)
  t.match(head, /^HTTP\/1\.1 200 OK/)
  t.match(head, CONNECTION_CLOSE)
  t.equal(body, json({ a: '1' }))
  await exited(t, service)
}

t.test('JSON', async t => {
  const { service, port } = await start(t)
  await expectAnswer(t, service, new RawClient(port).get('/json?a=1'))
})

t.test('a stream that has been sent in part', async t => {
  const { service, port } = await start(t)
  const client = new RawClient(port).get('/stream')
  await client.until(/first/)
  await stop(service)
  await client.closed
  t.equal(parse(client.text).body, streamed)
  await exited(t, service)
})

for (const protocol of ['http', 'https']) {
  t.test(`${protocol}: 24 MiB, read slowly`, async t => {
    const { service, port } = await start(t, { PROTOCOL: protocol })
    const size = 24 * MIB
    const options = { port, host: '127.0.0.1', highWaterMark: 20 * 1024 }
    const socket = protocol === 'https' ? connectTls({ ...options, rejectUnauthorized: false }) : connectTcp(options)
    socket.write(`GET /big/${size} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await stop(service)
    const chunks: Buffer[] = []
    let paused = 0
    for await (const chunk of socket as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      if (++paused % 4 === 0) await sleep(1)
    }
    const received = Buffer.concat(chunks)
    const body = received.subarray(received.indexOf('\r\n\r\n') + 4)
    t.equal(body.length, size)
    t.equal(hash(body), hash(big(size)))
    await exited(t, service)
  })
}

t.test('an upload that has been sent in part', async t => {
  const { service, port } = await start(t)
  const body = randomBytes(8 * MIB)
  const client = new RawClient(port)
    .send(`POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: ${body.length}\r\n\r\n`)
  client.socket.write(body.subarray(0, MIB))
  await stop(service)
  await service.log.line(/Waiting for 1 in-flight request/)
  client.socket.write(body.subarray(MIB))
  await client.closed
  const { head, body: answer } = parse(client.text)
  t.match(head, CONNECTION_CLOSE)
  t.equal(answer, JSON.stringify({ bytes: body.length, hash: hash(body) }))
  await exited(t, service)
})

t.test('Expect: 100-continue, with the body sent afterwards', async t => {
  const { service, port } = await start(t)
  const client = new RawClient(port)
    .send('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n')
  await client.until(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
  client.text = ''
  await stop(service)
  await service.log.line(/Waiting for 1 in-flight request/)
  client.send('body')
  await client.closed
  const { head, body } = parse(client.text)
  t.match(head, CONNECTION_CLOSE)
  t.equal(body, JSON.stringify({ bytes: 4, hash: hash('body') }))
  await exited(t, service)
})

t.test('a response with trailers', async t => {
  const { service, port } = await start(t)
  const client = new RawClient(port).get('/trailers', ['TE: trailers'])
  await stop(service)
  await client.closed
  const { head, body, trailers } = parse(client.text)
  t.match(head, CONNECTION_CLOSE)
  t.equal(body, 'with trailers')
  t.equal(trailers, `x-hash: ${hash('with trailers')}\r\n\r\n`)
  await exited(t, service)
})

t.test('three pipelined requests, of which only the last response says Connection: close', async t => {
  const { service, port } = await start(t)
  const client = new RawClient(port).get('/json?n=1').get('/json?n=2').get('/json?n=3')
  await stop(service, 3)
  await client.closed
  const answers = client.text.split(/(?=HTTP\/1\.1 200 OK)/).map(parse)
  t.strictSame(answers.map(({ body }) => body), ['1', '2', '3'].map(n => json({ n })))
  t.strictSame(answers.map(({ head }) => CONNECTION_CLOSE.test(head)), [false, false, true])
  await exited(t, service, 3)
})

for (const protocol of ['http2', 'https2']) {
  t.test(`${protocol}: streams`, async t => {
    const { service, port } = await start(t, { PROTOCOL: protocol })
    const session = connectHttp2(`${protocol.replace('2', '')}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    const goaway = once(session, 'goaway')
    const stopped = stop(service, 3)
    const ask = async (path: string): Promise<[status: unknown, body: Buffer]> => {
      const stream = session.request({ ':path': path })
      const [headers] = await once(stream, 'response') as [IncomingHttpHeaders & { ':status': number }]
      // So that the large response is still in progress then.
      await stopped
      const chunks: Buffer[] = []
      for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk)
      return [headers[':status'], Buffer.concat(chunks)]
    }
    const answers = Promise.all([ask('/json?a=1'), ask('/stream'), ask(`/big/${4 * MIB}`)])
    const [first, second, third] = await answers
    t.strictSame([first[0], first[1].toString()], [200, json({ a: '1' })])
    t.strictSame([second[0], second[1].toString()], [200, streamed])
    t.strictSame([third[0], hash(third[1])], [200, hash(big(4 * MIB))])
    await goaway
    await exited(t, service, 3)
  })
}

t.test('HTTPS', async t => {
  const { service, port } = await start(t, { PROTOCOL: 'https' })
  const client = new RawClient(connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })).get('/json?a=1')
  await expectAnswer(t, service, client)
})

t.test('a Unix socket', async t => {
  const path = socketPath(t)
  const { service } = await start(t, { SOCKET: path })
  const client = new RawClient(path).get('/json?a=1')
  await expectAnswer(t, service, client)
})

t.test('both listeners of localhost', async t => {
  const { service, port } = await start(t, { HOST: 'localhost' })
  const clients = ['127.0.0.1', '::1'].map(host => new RawClient(connectTcp(port, host)).get('/json?a=1'))
  await stop(service, 2)
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  for (const { text } of clients) {
    const { head, body } = parse(text)
    t.match(head, CONNECTION_CLOSE)
    t.equal(body, json({ a: '1' }))
  }
  await exited(t, service, 2)
})

for (const phase of ['delaying', 'draining'] as const) {
  t.test(`${phase}: a response that does not wait for its upload is read by a client that first writes all of it`, async t => {
    const { app } = await createApp(t, { shutdownDelay: phase === 'delaying' ? 1_000 : 0 }, { bodyLimit: 16 * MIB })
    const entered = new Deferred()
    app.post('/', {
      onRequest: async (_request, reply) => {
        entered.resolve()
        if (phase === 'draining') await once(app.gracefulShutdown.signal, 'abort')
        await reply.code(401).send('who are you')
      }
    }, async () => 'never')
    const client = new RawClient(await listen(app))
    client.socket.pause()
    const body = Buffer.alloc(8 * MIB)
    let report: Promise<unknown> | undefined
    if (phase === 'delaying') report = app.gracefulShutdown.shutdown()
    client.send(`POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n\r\n`)
    await entered.promise
    report ??= app.gracefulShutdown.shutdown()
    await new Promise<void>(resolve => { client.socket.write(body, () => { resolve() }) })
    client.socket.resume()
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 401 Unauthorized[^]*who are you$/)
    t.equal(client.error, undefined)
    t.match(await report, { completed: 1, cut: { length: 0 }, exitCode: 0 })
  })
}

t.test('a connection whose streamed response ends while other requests are in flight is closed soon after', async t => {
  const { service, port } = await start(t, { OPTIONS: '{"drainTimeout":10000}' })
  const stuck = new RawClient(port).get('/stuck')
  const client = new RawClient(port).get('/stream')
  await client.until(/first/)
  await stop(service, 2)
  await client.until(/last\r\n0\r\n\r\n/)
  const ended = performance.now()
  await client.closed
  t.ok(performance.now() - ended < 2_000)
  t.notMatch(parse(client.text).head, CONNECTION_CLOSE, 'it could not be set in time')
  t.strictSame(service.log.messages(/^Request cut/), [], 'the drain still runs')
  stuck.socket.destroy()
  service.kill('SIGKILL')
})
