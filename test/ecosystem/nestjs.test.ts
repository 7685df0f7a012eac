// NestJS with its Fastify adapter, in CommonJS.

import t, { type Test } from 'tap'
import { start, type Service } from './service.ts'

/** SIGTERM while an order is in flight: it is answered, and the next one is rejected. */
async function orderAtSigterm (t: Test, service: Service, beforeNext = async () => {}): Promise<void> {
  const placed = service.get('/orders')
  await service.holds('/orders')
  await service.sigterm()
  await beforeNext()
  const refused = await service.get('/orders')
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await placed, { status: 200, complete: true, body: /^placed$/ })
}

t.test('the set-up of the page serves during its delay, runs the hooks of NestJS, and exits with 0', async t => {
  const service = await start(t, 'recipes/nestjs')
  t.match(await service.get('/ready'), { status: 200 })
  await service.sigterm()
  t.match(await service.get('/ready'), { status: 503 })
  t.match(await service.get('/orders'), { status: 200, complete: true, body: /^orders$/ })
  const { code, report, complaints } = await service.ended()
  t.match({ code, report }, { code: 0, report: { completed: 1, refused: 0, cut: { length: 0 } } })
  t.ok(complaints.includes('onApplicationShutdown is done'))
})

t.test('without enableShutdownHooks(), requests in flight are answered, and the process exits with 0', async t => {
  const service = await start(t, 'nestjs')
  await orderAtSigterm(t, service)
  const report = { completed: 1, refused: 1, cut: { length: 0 }, callbacks: [{ name: 'database' }] }
  t.match(await service.ended(), { code: 0, report, complaints: { length: 0 } })
  t.strictSame(service.log.messages(/^the database/), ['the database is closed'])
})

t.test('with the recipe for slow hooks, the plugin shuts down after onModuleDestroy', async t => {
  const service = await start(t, 'nestjs', { RECIPE: '1' })
  await orderAtSigterm(t, service)
  const report = { reason: 'close', completed: 1, refused: 1, cut: { length: 0 } }
  t.match(await service.ended(), { code: 0, report, complaints: { length: 0 } })
  t.strictSame(service.log.messages(/ is done$|^Shutting down|^the database/), [
    'onModuleDestroy is done', 'Shutting down: close', 'the database is closed', 'onApplicationShutdown is done'
  ])
})

for (const [options, environment] of [[{}, {}], [{}, { AT_ONCE: '1' }], [{ useProcessExit: true }, {}]] as const) {
  const name = `with enableShutdownHooks(), an async onApplicationShutdown is finished (${JSON.stringify({ ...options, ...environment })})`
  t.test(name, async t => {
    const service = await start(t, 'nestjs', { HOOKS: JSON.stringify(options), ...environment })
    await orderAtSigterm(t, service)
    // NestJS ends the process by sending the signal again or by process.exit().
    const end = 'useProcessExit' in options ? { code: 0 } : { signal: 'SIGTERM' }
    t.match(await service.ended(), { ...end, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
    t.strictSame(service.log.messages(/^onApplicationShutdown/), ['onApplicationShutdown is done'])
  })
}

t.test('beside a second Nest application, which sends the signal again when it is done, requests in flight are answered', async t => {
  const options = { signals: ['uncaughtException', 'unhandledRejection'] }
  const service = await start(t, 'nestjs', { HOOKS: '{}', WITH_WORKER: '1', OPTIONS: JSON.stringify(options) })
  // The second order is later than the signal that is sent again.
  await orderAtSigterm(t, service, async () => { await service.log.line(/^the worker is done/) })
  t.match(await service.ended(), { signal: 'SIGTERM', report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
  t.strictSame(service.log.messages(/^onApplicationShutdown/), ['onApplicationShutdown is done'])
})
