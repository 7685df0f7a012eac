// example/worker.ts: jobs over a restart.

import t from 'tap'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Database from 'libsql'
import { portOf, runNode } from '../helpers.ts'

const JOBS = 6

t.test('a job in progress at SIGTERM is finished, the next ones are left to the next process, and none is done twice', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  const file = join(directory, 'jobs.db')
  const start = () => runNode(t, [fileURLToPath(new URL('../../example/worker.ts', import.meta.url))], { DATABASE: file, PORT: '0', JOB_TIME: '300' })
  const first = start()
  const port = await portOf(first)
  for (let job = 0; job < JOBS; job++) {
    const { status } = await fetch(`http://127.0.0.1:${port}/jobs`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"task":"mail"}'
    })
    t.equal(status, 202)
  }
  await first.log.line(/^Job 2 begins$/)
  first.kill('SIGTERM')
  // While the first one finishes its job.
  const second = start()
  t.strictSame(await first.exit, { code: 0, signal: null })
  t.strictSame(first.log.messages(/^Job/), ['Job 1 begins', 'Job 1 is done', 'Job 2 begins', 'Job 2 is done'])
  t.match(first.log.messages(/callback/), [/"worker" completed/, /"queue" completed/])
  await second.log.line(new RegExp(`^Job ${JOBS} begins$`))
  second.kill('SIGTERM')
  t.strictSame(await second.exit, { code: 0, signal: null })
  const database = new Database(file)
  t.strictSame(database.prepare('SELECT id, done FROM jobs ORDER BY id').all(), Array.from({ length: JOBS }, (_, index) => ({ id: index + 1, done: 1 })))
  database.close()
})
