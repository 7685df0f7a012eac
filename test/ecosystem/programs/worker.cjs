'use strict'

const { setTimeout } = require('node:timers/promises')
const { hold, serve } = require('./serve.cjs')

/** A worker as BullMQ has them, with its queue in memory: one job at a time, each in `track()`. */
class Worker {
  constructor (app, run) {
    this.app = app
    this.run = run
    this.waiting = []
    this.isBusy = false
  }

  add (job) {
    this.waiting.push(job)
    this.take()
  }

  take () {
    const { app } = this
    if (this.isBusy || this.waiting.length === 0 || app.gracefulShutdown.signal.aborted) return
    this.isBusy = true
    const job = this.waiting.shift()
    app.gracefulShutdown.track(this.run(job), `job ${job}`).finally(() => {
      this.isBusy = false
      this.take()
    })
  }
}

serve(async app => {
  const worker = new Worker(app, async job => {
    await hold({ log: app.log, url: `job ${job}` })
    // Later than the drain would take without it.
    await setTimeout(300)
    app.log.info(`job ${job} is done`)
  })
  app.post('/jobs/:job', async (request, reply) => {
    worker.add(request.params.job)
    return reply.code(202).send()
  })
  app.registerShutdownCallback(() => { app.log.info(`left in the queue: ${worker.waiting.join()}`) }, { name: 'queue' })
})
