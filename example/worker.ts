// A worker: takes jobs from a queue in an embedded database and works on one after another, as a BullMQ worker does. Its service adds
// jobs and answers probes. On SIGTERM, the job in progress is finished, and the next ones are left to the next process:
//
//   DATABASE=jobs.db node --import tsx example/worker.ts
//   curl -H 'content-type: application/json' -d '{"task":"mail"}' localhost:3000/jobs

import type { Database } from 'libsql'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { closeDatabase, openDatabase } from './database.ts'

interface Job {
  id: number
  task: string
}

export class Queue {
  readonly #database: Database

  /** @param path a file, which several processes may use */
  constructor (path: string) {
    this.#database = openDatabase(path)
    this.#database.exec('CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, task TEXT NOT NULL, worker INTEGER, done INTEGER) STRICT')
  }

  add (task: string): number {
    return Number(this.#database.prepare('INSERT INTO jobs (task) VALUES (?)').run(task).lastInsertRowid)
  }

  /** Takes the oldest job that no worker has taken. One statement, so that two processes never take the same job. */
  take (): Job | undefined {
    const oldest = 'SELECT id FROM jobs WHERE worker IS NULL ORDER BY id LIMIT 1'
    return this.#database.prepare(`UPDATE jobs SET worker = ? WHERE id = (${oldest}) RETURNING id, task`).get(process.pid) as Job | undefined
  }

  done ({ id }: Job): void {
    this.#database.prepare('UPDATE jobs SET done = coalesce(done, 0) + 1 WHERE id = ?').run(id)
  }

  close (): void {
    closeDatabase(this.#database)
  }
}

/** Works on one job after another until it is closed. */
export class Worker {
  readonly #queue: Queue
  readonly #work: (job: Job) => Promise<void>
  readonly #closing = new AbortController()
  readonly #running: Promise<void>

  constructor (queue: Queue, work: (job: Job) => Promise<void>) {
    this.#queue = queue
    this.#work = work
    this.#running = this.#run()
  }

  async #run (): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      const job = this.#queue.take()
      if (job === undefined) {
        // Resolves after a while, or at once when the worker is closed.
        await sleep(100, undefined, { signal }).catch(() => {})
        continue
      }
      await this.#work(job)
      this.#queue.done(job)
    }
  }

  /** Takes no more jobs, and resolves when the job in progress is done. */
  async close (): Promise<void> {
    this.#closing.abort()
    await this.#running
  }
}

const { DATABASE = 'jobs.db', PORT = '3000', JOB_TIME = '1000' } = process.env
const app = Fastify({ logger: true })
await app.register(gracefulPlugin, { shutdownDelay: { max: 5_000, quiet: 500 } })
const queue = new Queue(DATABASE)
app.post<{ Body: { task: string } }>('/jobs', async ({ body }, reply) => reply.code(202).send({ id: queue.add(body.task) }))
const worker = new Worker(queue, async job => {
  app.log.info(`Job ${job.id} begins`)
  await sleep(Number(JOB_TIME))
  app.log.info(`Job ${job.id} is done`)
})
// As the shutdown starts: take no more jobs. The drain waits for the one in progress.
app.gracefulShutdown.onShutdown(async () => { await worker.close() }, { name: 'worker', when: 'start' })
// At the end: requests in flight may add jobs until then.
app.gracefulShutdown.onShutdown(() => { queue.close() }, { name: 'queue' })
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
