// A worker as in BullMQ: jobs in the same process.

import t from 'tap'
import { Readable } from 'node:stream'
import { start } from './service.ts'

t.test('the job that runs at SIGTERM is finished, and no other job is taken', async t => {
  const service = await start(t, 'worker')
  for (const job of ['a', 'b']) t.match(await service.post(`/jobs/${job}`, Readable.from([])), { status: 202 })
  await service.holds('job a')
  await service.sigterm()
  t.match(await service.post('/jobs/c', Readable.from([])), { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  await service.release()

  t.match(await service.ended(), { code: 0, report: { refused: 1, cut: { length: 0 }, callbacks: [{ name: 'queue' }] }, complaints: { length: 0 } })
  t.strictSame(service.log.messages(/^finished/), ['finished: a; waiting: b'])
})
