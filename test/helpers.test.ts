// What the tests wait for either comes, or the test fails and says why.

import t from 'tap'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
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
