'use strict'

const Sentry = require('@sentry/node')
// DEFAULTS: without the recipe's list of integrations, and without its callback.
const isDefault = process.env.DEFAULTS !== undefined
if (isDefault) Sentry.init({ dsn: process.env.SENTRY_DSN })
const addSentry = isDefault ? () => {} : require('./recipes/addSentry.cjs').addSentry
const { setTimeout: sleep } = require('node:timers/promises')
const { hold, serve } = require('./serve.cjs')

// Stands for a slow network: without Sentry.close(), the process exits before an event is sent.
Sentry.addEventProcessor(async event => {
  await sleep(300)
  return event
})

serve(async app => {
  addSentry(app)
  app.get('/fails', async request => {
    await hold(request)
    throw new Error('a handler failed')
  })
  app.get('/throws', async () => {
    setImmediate(() => { throw new Error('nothing caught this') })
    return 'soon'
  })
  app.get('/rejects', async () => {
    void Promise.reject(new Error('nothing handled this'))
    return 'soon'
  })
})
