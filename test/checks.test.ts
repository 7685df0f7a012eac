// The checks behind the probes: how often they run, and what is logged about them.

import t from 'tap'
import { createApp, Deferred, heldRoute, listen } from './helpers.ts'

const isOfCheck = /^Check /

t.test('a failing check is logged with its error when it starts to fail, and again when it has recovered', async t => {
  let error: Error | undefined
  const { app, log } = await createApp(t, {
    ready: { logLevel: 'silent', checks: { db: async () => { if (error !== undefined) throw error }, fine: () => true } }
  })
  await app.inject('/ready')
  t.strictSame(log.messages(isOfCheck), [])
  error = new Error('no route to database')
  for (let probes = 0; probes < 3; probes++) t.equal((await app.inject('/ready')).statusCode, 503)
  t.strictSame(log.messages(isOfCheck), ['Check "db" is failing'])
  t.match(log.lines.at(-1), { level: 40, err: { message: 'no route to database', stack: /checks\.test/ } })
  error = undefined
  for (let probes = 0; probes < 3; probes++) t.equal((await app.inject('/ready')).statusCode, 200)
  t.strictSame(log.messages(isOfCheck), ['Check "db" is failing', 'Check "db" has recovered'])
  t.equal(log.lines.at(-1)?.level, 30)
  error = new Error('again')
  await app.inject('/ready')
  t.match(log.lines.at(-1), { msg: 'Check "db" is failing', err: { message: 'again' } })
})

t.test('a check that throws something other than an error, returns false or takes too long is also logged with an error', async t => {
  const { app, log } = await createApp(t, {
    health: {
      checkTimeout: 20,
      checks: {
        text: () => { throw 'down' as unknown as Error }, // oxlint-disable-line no-throw-literal
        no: () => false,
        hangs: async () => { await new Promise(() => {}) }
      }
    }
  })
  t.equal((await app.inject('/health')).body, '{"status":"unhealthy","checks":["text","no","hangs"]}')
  const errors = Object.fromEntries(log.lines.filter(({ msg }) => isOfCheck.test(msg)).map(({ msg, err }) => [msg, err]))
  t.match(errors, {
    'Check "text" is failing': { message: "Not an error: 'down' (string)" },
    'Check "no" is failing': { code: 'FST_ERR_GRACEFUL_CHECK_FAILED', message: 'The check "no" returned false' },
    'Check "hangs" is failing': { code: 'FST_ERR_GRACEFUL_CHECK_TIMEOUT', message: 'The check "hangs" did not finish within 20 ms' }
  })
})

t.test('concurrent probes on all routes share one run of a check', async t => {
  let runs = 0
  let running = new Deferred()
  let started = new Deferred()
  const { app } = await createApp(t, {
    ready: {
      checks: {
        db: async () => {
          runs++
          started.resolve()
          await running.promise
        }
      }
    }
  })
  app.get('/own/ready', app.gracefulShutdown.readyHandler)
  await app.ready()
  const first = app.inject('/ready')
  await started.promise
  const others = ['/ready', '/own/ready', '/ready'].map(async url => await app.inject(url))
  // The other requests have arrived once this one, sent after them, is answered.
  await app.inject('/health')
  t.equal(runs, 1)
  running.resolve()
  for (const { statusCode } of await Promise.all([first, ...others])) t.equal(statusCode, 200)
  t.equal(runs, 1)

  running = new Deferred()
  started = new Deferred()
  const next = app.inject('/ready')
  await started.promise
  t.equal(runs, 2, 'a later probe runs it again')
  running.reject(new Error('down'))
  t.equal((await next).statusCode, 503)
})

t.test('if the state changes while the checks of a probe run, the probe answers by the new state', async t => {
  let running = new Deferred()
  let started = new Deferred()
  const check = async () => {
    started.resolve()
    await running.promise
  }
  const { app } = await createApp(t, { shutdownDelay: 10_000, health: { checks: { check } }, ready: { checks: { check } } })
  await listen(app)
  const first = app.inject('/ready')
  await started.promise
  app.gracefulShutdown.setReady(false)
  running.resolve()
  t.match(await first, { statusCode: 503, body: '"reason":"not_ready"' })

  app.gracefulShutdown.setReady(true)
  running = new Deferred()
  started = new Deferred()
  const probes = ['/health', '/ready'].map(async url => await app.inject(url))
  await started.promise
  await new Promise(setImmediate)
  const report = app.gracefulShutdown.shutdown()
  running.resolve()
  for (const probe of probes) t.match(await probe, { statusCode: 503, body: 'shutting_down' })
  app.gracefulShutdown.skipDelay()
  t.match(await report, { exitCode: 0 })
})

t.test('while a run that has timed out is pending, the probe fails at once and does not run the check again', async t => {
  let runs = 0
  const running = new Deferred()
  const { app } = await createApp(t, {
    ready: {
      checkTimeout: 500,
      checks: {
        db: async () => {
          runs++
          await running.promise
        }
      }
    }
  })
  for (let probes = 0; probes < 10; probes++) t.match(await app.inject('/ready'), { statusCode: 503, body: /"db"/ })
  t.equal(runs, 1)
  running.resolve()
  await new Promise(setImmediate)
  t.equal((await app.inject('/ready')).statusCode, 200)
  t.equal(runs, 2, 'once it has ended, the next probe runs the check again')
})

t.test('a check that never ends is run again, less and less often, so that its probe can recover', async t => {
  const starts: number[] = []
  const checkTimeout = 50
  const { app, log } = await createApp(t, {
    ready: {
      checkTimeout,
      checks: {
        db: async () => {
          starts.push(performance.now())
          if (starts.length < 3) await new Promise(() => {})
        }
      }
    }
  })
  while ((await app.inject('/ready')).statusCode !== 200) await new Promise(setImmediate)
  const [first, second, third] = starts as [number, number, number]
  // A little less than twice and four times, because the clock is read a moment before the run starts.
  t.ok(second - first > 1.5 * checkTimeout, `second run after ${second - first} ms`)
  t.ok(third - second > 3 * checkTimeout, `third run after ${third - second} ms more`)
  for (let probes = 0; probes < 10; probes++) t.equal((await app.inject('/ready')).statusCode, 200, 'the lost runs hold up no other run')
  t.strictSame(log.messages(isOfCheck), ['Check "db" is failing', 'Check "db" has recovered'])
})

t.test('a logger that throws does not change the response', async t => {
  const { app } = await createApp(t, { ready: { checks: { db: () => false } } })
  app.log.warn = () => { throw new Error('log') }
  t.equal((await app.inject('/ready')).body, '{"ready":false,"reason":"check_failed","checks":["db"]}')
})

t.test('checks do not run while shutting down', async t => {
  let runs = 0
  const checks = { db: () => { runs++ } }
  const { app } = await createApp(t, { health: { checks, duringShutdown: 200 }, ready: { checks } })
  const held = heldRoute(app)
  const answer = app.inject('/held')
  await held.entered
  const report = app.gracefulShutdown.shutdown()
  await app.inject('/health')
  await app.inject('/ready')
  t.equal(runs, 0)
  held.release()
  await Promise.all([answer, report])
})
