// @fastify/static: files.

import t from 'tap'
import { start } from './service.ts'

/** More than the kernel buffers, so that the server still sends if its client does not read. */
const SIZE = 32 * 1024 * 1024

t.test('a download that its client reads slowly at SIGTERM is sent completely', async t => {
  const service = await start(t, 'static', { SIZE: String(SIZE) })
  const client = service.stream('/large.txt')
  await client.until(/\r\n\r\nx/)
  client.socket.pause()
  await service.sigterm()
  const refused = await service.get('/large.txt')
  client.socket.resume()
  await client.closed

  t.match(refused, { status: 503, complete: true })
  t.match(client.text.slice(0, 1_000), /^HTTP\/1\.1 200 OK\r\n/)
  t.equal(client.text.length - client.text.indexOf('\r\n\r\n') - 4, SIZE)
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
