// What the tests wait for either comes, or the test fails and says why. What a client has read is told as it was.

import t from 'tap'
import { once } from 'node:events'
import { createServer as createHttp2Server } from 'node:http2'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { wholeTurn } from '../lib/clock.ts'
import { Http2 } from './chaos/http2.ts'
import { portOf, RawClient, runNode } from './helpers.ts'

t.test('waiting for a line of a program that has ended fails, with its exit code and its output', async t => {
  const program = runNode(t, ['-e', "console.log('{\"msg\":\"last words\"}'); console.error('no such port'); process.exitCode = 3"])
  const port = portOf(program)
  await t.rejects(port, { message: /^No line matches \/listening at\/\. The program ended with 3\.[^]*no such port/ })
  t.strictSame(await program.exit, { code: 3, signal: null })
  t.match(await program.log.line(/last words/), {}, 'a line that has come is still found')
  await t.rejects(program.log.line(/more/), { message: /^No line matches \/more\// })
})

t.test('waiting for a text on a connection that has been closed fails, with what was received', async t => {
  const server = createServer(socket => { socket.end('half') }).listen(0, '127.0.0.1')
  t.teardown(() => { server.close() })
  await once(server, 'listening')
  const client = new RawClient((server.address() as AddressInfo).port)
  t.equal(await client.until(/hal/), 'half')
  await t.rejects(client.until(/whole/), { message: 'The connection was closed before /whole/ was received: "half"' })
})

t.test('an HTTP/2 response that a reset has cut after GOAWAY is not whole, although Node shows no error', async t => {
  const server = createHttp2Server((_request, response) => {
    response.writeHead(200)
    response.stream.session?.goaway()
  }).on('sessionError', () => {}).listen(0, '127.0.0.1')
  await once(server, 'listening')
  // The server itself would tell the client that it destroys the stream.
  const sockets: Socket[] = []
  const proxy = createServer(socket => {
    sockets.push(socket)
    const upstream = connect((server.address() as AddressInfo).port, '127.0.0.1')
    socket.on('close', () => { upstream.destroy() }).pipe(upstream).pipe(socket)
  }).listen(0, '127.0.0.1')
  t.teardown(() => {
    proxy.close()
    server.close()
  })
  await once(proxy, 'listening')
  const client = new Http2((proxy.address() as AddressInfo).port, false)
  await client.connected
  const { stream, answered } = client.ask({ client: 0, url: '/', connection: 0 }, 'GET')
  let hasEnded = false
  stream.on('end', () => { hasEnded = true }).resume()
  await Promise.all([once(client.session, 'goaway'), once(stream, 'response')])
  // Until Node has written its acknowledgement of the settings: a reset before that is shown.
  await wholeTurn()
  sockets[0]?.resetAndDestroy()
  t.match(await answered, { status: 200, outcome: 'part', error: 'ECONNRESET' })
  t.strictSame({ hasEnded, rstCode: stream.rstCode, aborted: stream.aborted }, { hasEnded: true, rstCode: 0, aborted: false }, 'what Node shows')
})
