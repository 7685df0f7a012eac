// A user may throw, reject or pass any value: it does not stop a shutdown, and the report shows something useful.

import t from 'tap'
import type { FastifyError, FastifyInstance } from 'fastify'
import { EventEmitter } from 'node:events'
import { Writable } from 'node:stream'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { messageOf } from '../lib/values.ts'
import { createApp, fork, heldRoute, listen, Log, portOf, RawClient } from './helpers.ts'

const trap = () => { throw new Error('trap') }
const traps: ProxyHandler<object> = {
  get: trap, set: trap, has: trap, deleteProperty: trap, ownKeys: trap, defineProperty: trap, getOwnPropertyDescriptor: trap,
  getPrototypeOf: trap, setPrototypeOf: trap, isExtensible: trap, preventExtensions: trap, apply: trap, construct: trap
}

function revoked (target: object): object {
  const { proxy, revoke } = Proxy.revocable(target, {})
  revoke()
  return proxy
}

const hidden = (name: string) => Object.defineProperty(new Error('hidden'), name, { get: trap })

/** A description, the value, and how a report shows it. */
const values: Array<[what: string, value: unknown, shown: RegExp]> = [
  ['undefined', undefined, /undefined/],
  ['null', null, /null/],
  ['a string', 'some text', /some text/],
  ['an empty string', '', /''|^$/],
  ['a number', 42, /42/],
  ['NaN', NaN, /NaN/],
  ['a bigint', 10n, /10n/],
  ['a boolean', false, /false/],
  ['a symbol', Symbol('sign'), /Symbol\(sign\)/],
  ['a function', function own () {}, /own/],
  ['an error', new TypeError('own message'), /own message/],
  ['an error without a message', new RangeError(), /^$|RangeError/], // oxlint-disable-line unicorn/error-message
  ['an error whose message getter throws', hidden('message'), /./],
  ['an error whose stack getter throws', hidden('stack'), /hidden/],
  ['an error whose name getter throws', hidden('name'), /./],
  ['an error whose cause getter throws', hidden('cause'), /hidden/],
  ['an error whose toJSON throws', Object.assign(new Error('own message'), { toJSON: trap }), /own message/],
  ['an error whose message is an object without a prototype', Object.assign(new Error('own'), { message: Object.create(null) as string }), /./],
  ['an error whose message is a symbol', Object.assign(new Error('own'), { message: Symbol('sign') as unknown as string }), /./],
  ['an error that is its own cause', Object.assign(new Error('round'), { get cause () { return this } }), /round/],
  ['an error with a then method that never calls back', Object.assign(new Error('never'), { then () {} }), /never/], // oxlint-disable-line no-thenable
  ['an error with a then method that throws', Object.assign(new Error('thrower'), { then: trap }), /thrower/], // oxlint-disable-line no-thenable
  ['an error whose then getter throws', Object.defineProperty(new Error('getter'), 'then', { get: trap }), /getter/], // oxlint-disable-line no-thenable
  ['an aggregate error of anything', new AggregateError([undefined, Symbol('sign')], 'several'), /several/],
  ['a frozen error', Object.freeze(new Error('own message')), /own message/],
  ['a frozen object', Object.freeze({ own: 'property' }), /own: 'property'/],
  ['an object', { own: 'property' }, /own: 'property'/],
  ['an object without a prototype', Object.assign(Object.create(null) as object, { own: 'property' }), /own: 'property'/],
  ['an object whose toString throws', { toString: trap, own: 1 }, /own: 1/],
  ['an object whose inspect function throws', { [Symbol.for('nodejs.util.inspect.custom')]: trap }, /object/],
  ['an object that names itself by a getter that throws', { get [Symbol.toStringTag] (): string { throw new Error('trap') } }, /./],
  ['a Proxy of an object that throws', new Proxy({ own: 1 }, traps), /./],
  ['a Proxy of an error that throws', new Proxy(new Error('behind'), { ...traps, getPrototypeOf: () => Error.prototype }), /./],
  ['a Proxy of a function that throws', new Proxy(function own () {}, traps), /./],
  ['a revoked Proxy', revoked({}), /./],
  ['a revoked Proxy of an error', revoked(new Error('behind')), /./],
  ['a revoked Proxy of a function', revoked(() => {}), /./]
]

/** What a call of `close()` does: what it throws, what its promise does, or that it returns the instance. */
async function outcomeOf (app: FastifyInstance, given: unknown): Promise<unknown> {
  try {
    const returned = (app.close as (given: unknown) => FastifyInstance | Promise<unknown>)(given)
    return returned === app ? ['returns the instance'] : ['resolves', await returned]
  } catch (thrown) {
    return ['fails', thrown instanceof Error && { code: (thrown as FastifyError).code, message: thrown.message }]
  }
}

/** Rejects if a shutdown hangs, so that the remaining tests still run. */
async function soon<T> (promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => { timer = setTimeout(() => { reject(new Error('hangs')) }, 5_000) })
  return await Promise.race([promise, late]).finally(() => { clearTimeout(timer) })
}

for (const [what, value, shown] of values) {
  t.test(`shutdown() given ${what} does not reject`, async t => {
    const { app, log } = await createApp(t)
    const reasons: string[] = []
    app.registerShutdownCallback(({ reason }) => { reasons.push(reason) })
    const emitter = new EventEmitter()
    emitter.on('trouble', app.gracefulShutdown.shutdown) // oxlint-disable-line no-misused-promises
    emitter.emit('trouble', value)
    const report = await soon(app.gracefulShutdown.shutdown(value))
    t.type(report.reason, 'string')
    if (value === undefined || value === null) t.equal(report.reason, 'shutdown')
    else t.match(report.reason, shown)
    t.ok(report.reason.length < 1_000)
    t.strictSame(reasons, [report.reason])
    t.equal(report.exitCode, report.errors.length)
    t.ok(report.errors.length === 0 || report.errors[0] === value, 'an error is in the report unchanged')
    t.equal(log.messages(/^Graceful shutdown complete|^Shutdown complete, with errors/).length, 1)
    const wait = app.gracefulShutdown.wait as (given: unknown) => Promise<unknown>
    t.equal(await wait(value), report)
  })

  t.test(`close() given ${what} does what Fastify does, and the shutdown then answers what is in flight`, async t => {
    const { app } = await createApp(t)
    const bare = Fastify()
    t.teardown(async () => { await bare.close() })
    const held = heldRoute(app)
    const client = new RawClient(await listen(app)).get('/held')
    await held.entered
    const outcome = outcomeOf(app, value)
    const report = app.gracefulShutdown.shutdown('afterwards')
    held.release()
    t.strictSame(await soon(outcome), await outcomeOf(bare, value))
    t.match(await soon(report), { completed: 1, exitCode: 0 })
    await client.closed
    t.match(client.text, /200 OK[^]*\{"held":true\}$/)
    await soon(app.close())
  })

  t.test(`a callback that throws ${what} does not stop the others`, async t => {
    const { app, log } = await createApp(t, { shutdownTimeout: 5_000, drainTimeout: 1_000 })
    app.registerShutdownCallback(() => { throw value }, { name: 'throws' }) // oxlint-disable-line no-throw-literal
    app.registerShutdownCallback(async () => { throw value }, { name: 'rejects' }) // oxlint-disable-line no-throw-literal
    app.registerShutdownCallback(() => value, { name: 'returns', timeout: 50 })
    app.registerShutdownCallback(() => {}, { name: 'next' })
    const { callbacks, exitCode, time } = await soon(app.gracefulShutdown.shutdown())
    t.strictSame(callbacks.map(({ name }) => name), ['throws', 'rejects', 'returns', 'next'])
    for (const { error } of callbacks.slice(0, 2)) t.match(messageOf(error as Error), shown)
    t.equal(callbacks[3]?.error, undefined)
    t.equal(exitCode, 1)
    t.ok(time < 1_000, `took ${time}ms`)
    t.equal(log.messages(/^Shutdown complete, with errors/).length, 1)
  })

  t.test(`preClose and onClose hooks, a callback for the start and background work that reject with ${what} are reported`, async t => {
    const log = new Log()
    const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { log.write(chunk.toString()); done() } })
    const app = Fastify({ logger: { stream } })
    t.teardown(async () => { await app.close().catch(() => {}) })
    await app.register(gracefulPlugin)
    let ran = 0
    const held = heldRoute(app)
    app.registerShutdownCallback(() => { ran++ })
    app.registerShutdownCallback(async () => { throw value }, { when: 'start' }) // oxlint-disable-line no-throw-literal
    // Fastify also gets what a preClose hook throws, and fails itself if it cannot read its code: closing then takes until the deadline.
    if (what !== 'a Proxy of an error that throws') app.addHook('preClose', async () => { throw value }) // oxlint-disable-line no-throw-literal
    app.addHook('onClose', async () => { throw value }) // oxlint-disable-line no-throw-literal
    const client = new RawClient(await listen(app)).get('/held')
    await held.entered
    const report = app.gracefulShutdown.shutdown()
    const work = Promise.reject(value) // oxlint-disable-line prefer-promise-reject-errors
    t.equal(app.gracefulShutdown.track(work, 'work'), work)
    await work.catch(() => {})
    held.release()
    const { errors, callbacks, exitCode } = await soon(report)
    await client.closed
    t.match(client.text, /200 OK[^]*\{"held":true\}$/)
    // Fastify treats a falsy rejection of an onClose hook as no error.
    t.ok(errors.length >= 1)
    for (const error of errors) t.match(messageOf(error), shown)
    t.match(messageOf(callbacks[0]?.error as Error), shown)
    t.equal(exitCode, 1)
    t.equal(ran, 1)
    t.equal(log.messages(/^Shutdown complete, with errors/).length, 1)
  })

  t.test(`${what} as the name of background work is shown in log and report`, async t => {
    const { app, log } = await createApp(t, { drainTimeout: 20 })
    void app.gracefulShutdown.track(new Promise(() => {}), value)
    t.equal(app.gracefulShutdown.inFlight().length, 1)
    const { cut, errors } = await soon(app.gracefulShutdown.shutdown())
    t.strictSame(errors, [])
    const names = cut.flatMap(entry => entry.kind === 'task' ? [entry.name] : [])
    t.strictSame(names.map(name => typeof name), ['string'])
    t.match(names[0], value === undefined ? /^task$/ : new RegExp(`${shown.source}|cannot be shown`))
    t.equal(log.messages(/^Background work cut: /).length, 1)
  })
}

for (const id of [Symbol('sign'), Object.create(null) as object, 42, 10n]) {
  t.test(`a request id that is not a string (${typeof id}) does not stop the drain`, async t => {
    const { app, log } = await createApp(t, { drainTimeout: 1_300 }, { genReqId: () => id as unknown as string })
    const held = heldRoute(app)
    const answer = app.inject('/held')
    await held.entered
    const { cut, errors } = await soon(app.gracefulShutdown.shutdown())
    t.strictSame(errors, [])
    t.match(cut, [{ route: '/held', reqId: typeof id === 'number' ? /^42$/ : String }])
    t.equal((await answer).statusCode, 503)
    t.equal(log.messages(/^Waiting for GET/).length, 1)
    held.release()
  })
}

t.test('a reason is shortened, whatever its type', async t => {
  const { app } = await createApp(t)
  const huge = Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`property${index}`, 'x'.repeat(100)]))
  const { reason } = await soon(app.gracefulShutdown.shutdown(huge))
  t.ok(reason.length <= 10_000, `${reason.length} characters`)
})

for (const kind of ['throw', 'reject'] as const) {
  t.test(`uncaught errors (${kind}) may be of any type: each is reported, and requests in flight are answered`, async t => {
    const program = fork(t, 'any-error', { KIND: kind })
    const client = new RawClient(await portOf(program)).get('/held')
    await client.closed
    t.match(client.text, /200 OK[^]*held$/)
    t.strictSame(await program.exit, { code: 1, signal: null })
    const { errors, omittedErrors, callbacks } = await program.log.line(/^the report$/) as unknown as {
      errors: string[], omittedErrors: number, callbacks: number
    }
    t.match(errors, [
      // For a rejection, Node creates an error that does not show objects.
      /undefined/, /null/, /some text/, /Symbol\(sign\)/, kind === 'throw' ? /own: 'property'/ : /the reason ".*Object.*"/, /./, /./, /./, /own message/, /never/
    ])
    t.equal(errors.length, 10)
    t.equal(omittedErrors, 0)
    t.equal(callbacks, 1)
  })
}

t.test('close() may be given anything: a signal then joins, requests in flight are answered, and the exit code is 0', async t => {
  const program = fork(t, 'any-error', { KIND: 'close' })
  const client = new RawClient(await portOf(program)).get('/held')
  await client.closed
  t.match(client.text, /200 OK[^]*held$/)
  t.strictSame(await program.exit, { code: 0, signal: null })
  t.match(await program.log.line(/^the report$/), { errors: { length: 0 }, callbacks: 1 })
})

t.test('an endless series of errors keeps the first 20 and counts the rest', async t => {
  const program = fork(t, 'any-error', { KIND: 'many' })
  const client = new RawClient(await portOf(program)).get('/held')
  await client.closed
  t.match(client.text, /200 OK[^]*held$/)
  t.strictSame(await program.exit, { code: 1, signal: null })
  const report = await program.log.line(/^the report$/)
  t.equal((report['errors'] as string[]).length, 20)
  t.equal(report['omittedErrors'], 980)
  t.ok(program.log.messages(/^Uncaught error$/).length <= 21)
})
