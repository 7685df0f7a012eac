// @fastify/multipart: uploads.

import t from 'tap'
import { PassThrough } from 'node:stream'
import { start } from './service.ts'

const HEADERS = { 'content-type': 'multipart/form-data; boundary=part' }
const HEAD = '--part\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\ncontent-type: text/plain\r\n\r\n'

t.test('an upload that is half received at SIGTERM is stored and answered', async t => {
  const service = await start(t, 'multipart')
  const body = new PassThrough()
  body.write(HEAD + 'x'.repeat(100_000))
  const uploaded = service.post('/upload', body, HEADERS)
  await service.holds('/upload')
  await service.sigterm()
  const late = new PassThrough()
  const refused = service.post('/upload', late.end(`${HEAD}late\r\n--part--\r\n`), HEADERS)
  t.match(await refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  body.end('y'.repeat(100_000) + '\r\n--part--\r\n')

  t.match(await uploaded, { status: 200, complete: true, body: /^\{"filename":"a.txt","bytes":200000\}$/ })
  t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
})
