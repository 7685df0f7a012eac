// Loaded before each test file of a foreign suite: registers the plugin on every instance that Fastify creates, and records
// what happens in its shutdowns. Without FOREIGN_PLUGIN it only counts instances, and measures how long closing takes.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Http2ServerResponse } from 'node:http2'
import type { GracefulOptions } from '../../types/index.ts'
import type { InstanceEvent } from './instances.ts'
import { subscribe } from 'node:diagnostics_channel'
import { appendFileSync } from 'node:fs'
import Module, { createRequire } from 'node:module'
import { relative } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'

type Plugin = (fastify: FastifyInstance, options: GracefulOptions) => Promise<void>
type Factory = (options?: unknown) => FastifyInstance
/** The suites track no background work, so only requests count. */
interface Counted { kind: string, method?: string, url?: string | undefined, reqId?: string | undefined }
type Loader = (this: unknown, module: { exports: unknown }, filename: string) => void

/** fastify.js, a file to append to, the folder of the suite; and optionally the plugin. */
const { FOREIGN_FASTIFY = '', FOREIGN_RECORDS = '', FOREIGN_FOLDER = '', FOREIGN_PLUGIN = '' } = process.env
/**
 * Signals and uncaught errors belong to the test runner, and the tests have their own routes. A request that is cut after 2 seconds
 * would also be cut after the default of 25.
 */
const OPTIONS = { signals: false, health: false, ready: false, drainTimeout: 2_000, shutdownTimeout: 5_000 } satisfies GracefulOptions
/** Milliseconds from which closing counts as slow. */
const SLOW = 1_000
/** Milliseconds that a test may take. */
const TEST_TIMEOUT = 15_000
// Some tests replace the globals.
const { setInterval, clearInterval } = globalThis
/** Run for each instance when the process ends. */
const atExit: Array<() => void> = []

if (isMainThread) {
  process.on('exit', () => { for (const look of atExit) look() })
  // Fastify's own word for each instance: it does not depend on what wrapFastify() finds.
  subscribe('fastify.initialization', () => { record({ kind: 'made', at: caller() }) })
  limitTests()
  wrapFastify()
}

/** A test that never ends must not prevent later ones from running. Node 20 has no flag to limit each test. */
function limitTests (): void {
  const limited = Object.defineProperties(withLimit(test), Object.getOwnPropertyDescriptors(test))
  Object.assign(limited, { test: limited, it: withLimit(test.it) })
  const load = Module.prototype.require
  const require = function (this: Module, id: string): unknown {
    return id === 'node:test' ? limited : Reflect.apply(load, this, [id])
  }
  Module.prototype.require = Object.assign(require, load)
}

/** When nothing keeps the process alive, node:test fails all remaining tests. */
function keepAlive (ended: Promise<void>): void {
  const timer = setInterval(() => {}, TEST_TIMEOUT)
  void ended.finally(() => { clearInterval(timer) })
}

function withLimit (define: (...args: never[]) => unknown) {
  return (...args: unknown[]) => {
    // A name, options and a function; each may be missing.
    const index = args.findIndex(value => typeof value === 'object' && value !== null)
    const options = { timeout: TEST_TIMEOUT, ...(index === -1 ? {} : args[index] as object) }
    if (index === -1) args.splice(typeof args[0] === 'function' ? 0 : 1, 0, options)
    else args[index] = options
    const ended = Reflect.apply(define, undefined, args)
    if (ended instanceof Promise) keepAlive(ended)
    return ended
  }
}

/** Wraps when the module is compiled, not when it is required, because some tests load it past the cache. */
function wrapFastify (): void {
  const plugin = FOREIGN_PLUGIN === '' ? undefined : loadPlugin(FOREIGN_PLUGIN)
  const loaders = createRequire(__filename).extensions as unknown as Record<'.js', Loader>
  const load = loaders['.js']
  loaders['.js'] = function (module, filename) {
    load.call(this, module, filename)
    if (filename === FOREIGN_FASTIFY) module.exports = wrap(module.exports as Factory, plugin)
  }
}

function loadPlugin (filename: string): Plugin {
  // Node 20 warns about each ES module that is required.
  const { emitWarning } = process
  process.emitWarning = () => {}
  const plugin = createRequire(filename)(filename) as Plugin
  process.emitWarning = emitWarning
  return plugin
}

function wrap (factory: Factory, plugin: Plugin | undefined): Factory {
  // Not an arrow function, because it may also be called with `new`.
  function fastify (options?: unknown): FastifyInstance {
    const instance = factory(options)
    const at = caller()
    if (plugin !== undefined) register(plugin, instance, at)
    measureClose(instance, at)
    return instance
  }
  return Object.assign(fastify, factory, { fastify, default: fastify })
}

/** As if `await register()` came first: the plugin is registered before any hook or route of the test. */
function register (plugin: Plugin, instance: FastifyInstance, at: string): void {
  const replies = new Map<string | undefined, FastifyReply>()
  const { addHook } = instance
  instance.addHook = function (this: FastifyInstance, name: string, hook: (...args: never[]) => unknown) {
    return Reflect.apply(addHook, this, [name, name === 'onRequest' ? noting(replies, hook) : hook]) as FastifyInstance
  } as typeof addHook
  const registered = plugin(instance, OPTIONS)
  instance.addHook = addHook
  registered.then(
    () => { record({ kind: 'registered', at }) },
    (error: unknown) => { record({ kind: 'not registered', at, what: String(error) }) }
  )

  const { gracefulShutdown } = instance as Partial<FastifyInstance>
  // The registration is rejected.
  if (gracefulShutdown === undefined) return
  const answered = new Set<FastifyReply>()
  const recorded = new Set<FastifyReply | undefined>()
  gracefulShutdown.signal.addEventListener('abort', () => {
    const deadline = performance.now() + OPTIONS.drainTimeout
    for (const reply of replies.values()) noteAnswer(reply, deadline, answered)
  })
  gracefulShutdown.wait().then(({ cut }) => {
    for (const entry of cut as Counted[]) {
      const reply = replies.get(entry.reqId)
      recorded.add(reply)
      record({ kind: reply !== undefined && answered.has(reply) ? 'cut though answered' : 'cut', at, what: `${entry.method} ${entry.url}` })
    }
  }, () => {})
  atExit.push(() => {
    for (const entry of gracefulShutdown.inFlight() as Counted[]) {
      const reply = replies.get(entry.reqId)
      if (!isOver(reply) || recorded.has(reply)) continue
      record({ kind: 'still counts', at, what: `${entry.method} ${entry.url}` })
    }
  })
}

/** The plugin's hook sees each request first. It records the reply without adding a hook, because some tests count hooks. */
function noting (replies: Map<string | undefined, FastifyReply>, hook: (...args: never[]) => unknown) {
  return function (this: unknown, request: FastifyRequest, reply: FastifyReply, done: unknown) {
    replies.set(request.id, reply)
    return Reflect.apply(hook, this, [request, reply, done]) as unknown
  }
}

function isOver (reply: FastifyReply | undefined): boolean {
  if (reply === undefined) return false
  const raw = reply.raw as Partial<Http2ServerResponse> & FastifyReply['raw']
  // An HTTP/2 response has no such properties itself.
  return raw.writableFinished || raw.destroyed || raw.stream?.destroyed === true
}

/** A request that is cut is also answered, by the plugin, at its deadline. */
function noteAnswer (reply: FastifyReply, deadline: number, answered: Set<FastifyReply>): void {
  const { raw } = reply
  // An HTTP/2 response also emits 'finish' when its stream has been reset.
  const note = () => { if (raw.headersSent) answered.add(reply) }
  if (raw.writableFinished) note()
  else raw.once('finish', () => { if (performance.now() < deadline - SLOW) note() })
}

function measureClose (instance: FastifyInstance, at: string): void {
  const { close } = instance
  instance.close = function (this: FastifyInstance, ...args: [() => void] | []) {
    const start = performance.now()
    let hasEnded = false
    const end = () => {
      hasEnded = true
      const time = performance.now() - start
      if (time > SLOW) record({ kind: 'slow', at, time })
    }
    const closed = Reflect.apply(close, this, args.map(arg => typeof arg === 'function' ? before(arg, end) : arg))
    atExit.push(() => { if (!hasEnded) record({ kind: 'never closes', at }) })
    if (args.length === 0) (closed as Promise<undefined>).then(end, end)
    return closed
  } as typeof close
}

/** The listener, with as many parameters: they decide what Fastify passes to it. */
function before (listener: (...args: never[]) => unknown, end: () => void) {
  const listening = function (this: unknown, ...args: never[]): unknown {
    end()
    return Reflect.apply(listener, this, args)
  }
  return Object.defineProperty(listening, 'length', { value: listener.length })
}

/** The innermost stack frame in the suite, except for Fastify itself. */
function caller (): string {
  for (const frame of String(new Error('where').stack).split('\n').slice(1)) {
    const [, place = '', line] = /\(?((?:file:\/\/)?\/[^()]*):(\d+):\d+\)?$/.exec(frame) ?? []
    const filename = place.startsWith('file:') ? fileURLToPath(place) : place
    if (filename.startsWith(FOREIGN_FOLDER) && filename !== FOREIGN_FASTIFY) return `${relative(FOREIGN_FOLDER, filename)}:${line}`
  }
  return 'elsewhere'
}

function record (event: InstanceEvent): void {
  appendFileSync(FOREIGN_RECORDS, `${JSON.stringify(event)}\n`)
}
