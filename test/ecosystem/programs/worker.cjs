'use strict'

const { setTimeout } = require('node:timers/promises')
const { hold, serve } = require('./serve.cjs')

/** A worker as in BullMQ, with its queue in memory: one job at a time, each in `track()`. */
class Worker {
  constructor (app) {
    this.app = app
    this.waiting = []
    this.finished = []
    this.isBusy = false
  }

  add (job) {
    this.waiting.push(job)
    this.take()
  }

  take () {
    const { gracefulShutdown } = this.app
    if (this.isBusy || this.waiting.length === 0 || gracefulShutdown.signal.aborted) return
    this.isBusy = true
    const job = this.waiting.shift()
    gracefulShutdown.track(this.work(job), `job ${job}`).finally(() => {
      this.isBusy = false
      this.take()
    })
  }

  async work (job) {
    await hold({ log: this.app.log, url: `job ${job}` })
    // Longer than an idle service takes for its shutdown.
    await setTimeout(500)
    this.finished.push(job)
  }
}

serve(async app => {
  const worker = new Worker(app)
  app.post('/jobs/:job', async (request, reply) => {
    worker.add(request.params.job)
    return reply.code(202).send()
  })
  app.registerShutdownCallback(() => {
    app.log.info(`finished: ${worker.finished.join()}; waiting: ${worker.waiting.join()}`)
  }, { name: 'queue' })
})
