// The self-test: differences that the runner must find. differences.ts lists them, with the lines that make the instances.

'use strict'

const assert = require('node:assert')
const { execFileSync } = require('node:child_process')
const { test } = require('node:test')
const { setTimeout: sleep } = require('node:timers/promises')
const Fastify = require(process.env.FOREIGN_FASTIFY)

const hasPlugin = app => app.hasDecorator('gracefulShutdown')
const forever = new Promise(() => {})
const answersOnly = async (request, reply) => {
  reply.send('hello')
  await forever
}

void test('an instance of another copy of Fastify', () => {
  require('fastify')()
})

void test('a test fails', () => {
  assert.ok(!hasPlugin(Fastify()))
})

void test('a request is cut', async () => {
  const app = Fastify()
  await new Promise(resolve => {
    app.get('/', () => { resolve() })
    void app.inject('/')
  })
  void app.close()
})

void test('an answered request is cut', async () => {
  const app = Fastify()
  app.get('/', answersOnly)
  await app.inject('/')
  void app.close()
})

void test('an answered request still counts when the process ends', async () => {
  const app = Fastify()
  app.get('/', answersOnly)
  await app.inject('/')
})

void test('closing is slow', () => {
  const app = Fastify()
  app.addHook('onClose', async () => { if (hasPlugin(app)) await sleep(2_000) })
  void app.close()
})

void test('the process ends before closing does', () => {
  const program = `
    const app = require(process.env.FOREIGN_FASTIFY)()
    app.addHook('onClose', async () => { if (app.hasDecorator('gracefulShutdown')) process.exit() })
    app.close()`
  execFileSync(process.execPath, ['--eval', program])
})
