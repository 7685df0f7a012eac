// Shared by the tests: an app whose log can be read, raw clients, forked programs.

import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { ChildProcessByStdio } from 'node:child_process'
import type { AddressInfo, Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import type { DiagnosticsChannels, GracefulOptions, Phase, ShutdownReport } from '../types/index.ts'
import { spawn } from 'node:child_process'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { EventEmitter, once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import gracefulPlugin from '../index.ts'
import { follow } from '../lib/lifecycle/channels.ts'
import { PHASES } from '../lib/lifecycle/phase.ts'
import { bundles } from './bundle.ts'
import { waitedOf } from './waited.ts'

export interface LogLine {
  level: number
  msg: string
  [key: string]: unknown
}

/** Keeps lines of JSON, and waits for them by their messages. */
export class Log {
  readonly lines: LogLine[] = []
  readonly #events = new EventEmitter()
  #rest = ''
  #end: string | undefined

  write (chunk: string): void {
    const lines = (this.#rest + chunk).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const text of lines.filter(line => line.startsWith('{'))) this.lines.push(JSON.parse(text) as LogLine)
    this.#events.emit('change')
  }

  /** Writes what the stream yields, line by line, so that lines of several streams do not mix. */
  read (stream: Readable): void {
    let rest = ''
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) this.write(`${line}\n`)
    })
  }

  /** No more lines come, for this reason. */
  end (reason: string): void {
    this.#end = reason
    this.#events.emit('change')
  }

  /** The first past or future line whose message matches. Rejects once no such line can come. */
  async line (message: RegExp): Promise<LogLine> {
    for (let index = 0; ; index++) {
      while (index === this.lines.length) {
        if (this.#end !== undefined) throw new Error(`No line matches ${message}. ${this.#end}`)
        await once(this.#events, 'change')
      }
      const line = this.lines[index] as LogLine
      if (message.test(line.msg)) return line
    }
  }

  messages (message = /./): string[] {
    return this.lines.filter(({ msg }) => message.test(msg)).map(({ msg }) => msg)
  }
}

export interface TestApp {
  app: FastifyInstance
  log: Log
}

/** An instance with the plugin, closed when the test ends. */
export async function createApp (t: Test, options: GracefulOptions = {}, server: FastifyServerOptions & object = {}): Promise<TestApp> {
  const log = new Log()
  const stream = new Writable({ write: (chunk: Buffer, _encoding, done) => { log.write(chunk.toString()); done() } })
  const app = Fastify({ logger: { level: 'debug', stream }, ...server }) as FastifyInstance
  t.teardown(async () => { await app.close() })
  await app.register(gracefulPlugin, options)
  return { app, log }
}

/** An instance whose own hooks are added before the plugin's, closed when the test ends. */
export async function createAppBehind (t: Test, addHooks: (app: FastifyInstance) => void, server: object = {}): Promise<FastifyInstance> {
  const app = Fastify(server) as FastifyInstance
  t.teardown(async () => { await app.close() })
  addHooks(app)
  await app.register(gracefulPlugin)
  return app
}

/**
 * The plugin checks all requests often, because a route has a short timeout. With a short readTimeout of the plugin, Node would answer with
 * 408 if the process is held up before it has read a request.
 */
export function checkOften (app: FastifyInstance): void {
  app.get('/impatient', { config: { gracefulShutdown: { writeTimeout: 200 } } }, async () => 'answer')
}

/** Listens on a free port of 127.0.0.1. */
export async function listen (app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as AddressInfo).port
}

/**
 * A port on which nothing listens, for a program that cannot choose one itself. Below those that the system gives to clients, so that no
 * connection takes it before the program listens.
 */
export async function freePort (hosts = ['127.0.0.1']): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const areFree = await Promise.all(hosts.map(async host => await isFree(port, host)))
    if (areFree.every(Boolean)) return port
  }
}

async function isFree (port: number, host: string): Promise<boolean> {
  const server = createServer().listen(port, host)
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  await new Promise(resolve => { server.close(resolve) })
  return true
}

/** Listens on both addresses of `localhost`; see `resolveToBothLoopbacks()`. With port 0, the second address may be in use. */
export async function listenOnLocalhost (app: FastifyInstance): Promise<void> {
  await app.listen({ port: await freePort(['127.0.0.1', '::1']), host: 'localhost' })
}

/** A promise with its resolve and reject functions. */
export class Deferred<T = void> {
  resolve!: (value: T) => void
  reject!: (error: Error) => void
  readonly promise = new Promise<T>((resolve, reject) => {
    this.resolve = resolve
    this.reject = reject
  })
}

/** A route that answers when released, and reports when a request has arrived. */
export function heldRoute (app: FastifyInstance, url = '/held', config: object = {}): { entered: Promise<void>, release: () => void } {
  const entered = new Deferred()
  const released = new Deferred()
  app.get(url, { config }, async () => {
    entered.resolve()
    await released.promise
    return { held: true }
  })
  return { entered: entered.promise, release: () => { released.resolve() } }
}

export interface HeldShutdown {
  app: FastifyInstance
  port: number
  client: RawClient
  release: () => void
  report: Promise<ShutdownReport>
}

/** A shutdown in progress: it waits for the client's request to `/held` until that is released. */
export async function heldShutdown (t: Test): Promise<HeldShutdown> {
  const { app } = await createApp(t)
  const { entered, release } = heldRoute(app)
  const port = await listen(app)
  const client = new RawClient(port).get('/held')
  await entered
  const report = app.gracefulShutdown.shutdown()
  return { app, port, client, release, report }
}

/** The headers of a request for a WebSocket. */
export const HANDSHAKE = [
  'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='
]

/** A TCP client that keeps everything it reads. */
export class RawClient {
  readonly socket: Socket
  text = ''
  error: Error | undefined
  readonly closed: Promise<void>
  readonly #events = new EventEmitter()

  constructor (target: number | string | Socket) {
    this.socket = typeof target === 'object' ? target : typeof target === 'number' ? connect(target, '127.0.0.1') : connect(target)
    this.closed = new Promise(resolve => { this.socket.on('close', () => { resolve() }) })
    this.socket.on('close', () => { this.#events.emit('change') })
    this.socket.on('error', error => { this.error = error })
    this.socket.on('data', (chunk: Buffer) => {
      this.text += chunk.toString('latin1')
      this.#events.emit('change')
    })
  }

  /** Sends a request without a body. */
  get (path: string, headers: readonly string[] = []): this {
    return this.send([`GET ${path} HTTP/1.1`, 'Host: test', ...headers, '', ''].join('\r\n'))
  }

  send (text: string): this {
    this.socket.write(text)
    return this
  }

  /** Waits until the received text matches. Rejects once it cannot any more. */
  async until (pattern: RegExp): Promise<string> {
    while (!pattern.test(this.text)) {
      if (this.socket.closed) throw new Error(`The connection was closed before ${pattern} was received: ${JSON.stringify(this.text)}`)
      await once(this.#events, 'change')
    }
    return this.text
  }
}

export interface Visit {
  client: RawClient
  /** Whether the server has closed its side of the connection. */
  gone: () => boolean
  /** Closes the client; resolves when the server has seen that. */
  leave: () => Promise<void>
}

/** A client, observed from both ends. */
export async function visit (app: FastifyInstance, port: number): Promise<Visit> {
  const connected = once(app.server, 'connection') as Promise<[Socket]>
  const client = new RawClient(port)
  const [socket] = await connected
  let isGone = false
  // Not once(), which rejects if the client resets the connection.
  const closed = new Promise<void>(resolve => {
    socket.on('close', () => {
      isGone = true
      resolve()
    })
  })
  const leave = async (): Promise<void> => {
    client.socket.destroy()
    await closed
  }
  return { client, gone: () => isGone, leave }
}

/** Collects the messages of a channel until the test ends. */
export function collect<N extends keyof DiagnosticsChannels> (t: Test, name: N): Array<DiagnosticsChannels[N]> {
  const messages: Array<DiagnosticsChannels[N]> = []
  const listener = (message: unknown) => { messages.push(message as DiagnosticsChannels[N]) }
  subscribe(name, listener)
  t.teardown(() => { unsubscribe(name, listener) })
  return messages
}

/**
 * Waits for a condition without an event, by checking it every millisecond, which leaves the processor to the programs that it waits
 * for. It gives up after `limit` milliseconds, well before a sweep of the plugin at its default drainTimeout could cause the condition.
 */
export async function eventually (condition: () => boolean, limit = 10_000, interval = 1): Promise<void> {
  const end = performance.now() + limit
  while (!condition()) {
    if (performance.now() > end) throw new Error(`Not within ${limit}ms: ${String(condition).replace(/^\(\) ?=> ?/, '')}`)
    await sleep(interval)
  }
}

/** Waits until this phase, or a later one, begins. An event tells: a short phase may be over before code that polls runs again. */
export async function phaseBegins (app: FastifyInstance, phase: Phase, limit = 10_000): Promise<void> {
  const begun = new Deferred()
  const check = () => { if (PHASES.indexOf(app.gracefulShutdown.phase) >= PHASES.indexOf(phase)) begun.resolve() }
  const unfollow = follow(app, 'phase', check)
  const timer = setTimeout(() => { begun.reject(new Error(`Not within ${limit}ms: ${phase}; it is ${app.gracefulShutdown.phase}`)) }, limit)
  check()
  try {
    await begun.promise
  } finally {
    clearTimeout(timer)
    unfollow()
  }
}

/** Returns what tells the processor time that this process has used since, in ms. Other programs on the machine hardly prolong it. */
export function processorTime (): () => number {
  const before = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(before)
    return Math.round((user + system) / 1_000)
  }
}

/** Calls back at this interval, in milliseconds, until the returned function is called, or the test ends, even if it fails. */
export function every (t: Test, interval: number, callback: () => void): () => void {
  const timer = setInterval(callback, interval)
  const stop = () => { clearInterval(timer) }
  t.teardown(stop)
  return stop
}

/** A path for a Unix socket. Not in t.testdir(), because it may have at most 107 characters, and a checkout's path may be long. */
export function socketPath (t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'graceful-'))
  t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
  return join(directory, 'app.sock')
}

export interface Program {
  pid: number
  log: Log
  /** Its output as plain text. */
  output: () => string
  kill: (signal: NodeJS.Signals) => void
  /** Stops reading its stdout, as in `node server.js | head`. */
  stopReading: () => void
  /** Pauses reading what it writes to its log; returns what resumes it. */
  pauseReading: (stream?: 'stdout' | 'stderr') => () => void
  /** Sends a signal to the program and all processes that it has started, as Ctrl-C does. */
  killGroup: (signal: NodeJS.Signals) => void
  exit: Promise<{ code: number | null, signal: NodeJS.Signals | null }>
}

/** Keeps warnings that the test causes on purpose out of the output. */
export function expectWarnings (t: Test, expected: RegExp): void {
  const { emitWarning } = process
  process.emitWarning = (...args: unknown[]) => {
    if (!expected.test(String(args[0]))) Reflect.apply(emitWarning, process, args)
  }
  t.teardown(() => { process.emitWarning = emitWarning })
}

/** The path of a program in test/fixtures. */
export function fixture (name: string): string {
  return new URL(`fixtures/${name}.ts`, import.meta.url).pathname
}

/** The command that runs a program in test/fixtures. Only its sources can be covered. */
export function commandOf (name: string, env: Record<string, string> = {}, nodeOptions: readonly string[] = []): string[] {
  const isCovered = Boolean(env['NODE_V8_COVERAGE'])
  return [process.execPath, ...nodeOptions, ...isCovered ? [...TYPESCRIPT, fixture(name)] : [join(bundles(), `${name}.mjs`)]]
}

/** Starts a program in test/fixtures, which ends with the test. */
export function fork (t: Test, name: string, env: Record<string, string> = {}, nodeOptions: readonly string[] = []): Program {
  return runCommand(t, commandOf(name, env, nodeOptions), env)
}

/** Milliseconds until several processes have started on a busy machine. */
export const FORKED = 30_000

/** The port on which both workers of the program `cluster` listen. */
export async function portOfWorkers (service: Program): Promise<number> {
  await eventually(() => service.log.messages(/listening at/).length === 2, FORKED)
  return await portOf(service)
}

/** Whether tests that repeat the same shutdown many times, or with many clients, do so in full: `npm run test:long`. */
export const LONG = process.env['LONG_TESTS'] === '1'

/** Why tests that listen with reusePort are skipped, if they are: Node.js 20 ignores it, and later ones refuse it on these platforms. */
export const NO_REUSE_PORT = ['darwin', 'win32'].includes(process.platform) && 'no reusePort on this platform'

/** The Node.js options with which the tests run TypeScript. */
export const TYPESCRIPT = [`--import=${new URL('typescript.mjs', import.meta.url).href}`]

/**
 * For programs that run code of which no test runs all within its own process. Others report no coverage: it would take a third of their
 * processor time. Not for programs that tsx compiles: it moves code within its line, so that their coverage cannot be merged.
 */
export const COVERED = { NODE_V8_COVERAGE: process.env['NODE_V8_COVERAGE'] ?? '' }

/** Starts Node as the leader of its own process group, by default to run TypeScript; it ends with the test. */
export function runNode (t: Test, args: readonly string[], env: Record<string, string> = {}, nodeOptions = TYPESCRIPT): Program {
  return runCommand(t, [process.execPath, ...nodeOptions, ...args], env)
}

/**
 * Starts a command as the leader of its own process group; it ends with the test.
 * @param inherited file descriptors of this process that the command gets as 3 and up
 */
export function runCommand (t: Test, command: readonly string[], env: Record<string, string> = {}, inherited: number[] = []): Program {
  // By way of `env`, which becomes the program, because the test runner adds options to each Node process that it sees started.
  const child = spawn('env', ['-u', 'NODE_OPTIONS', ...command], {
    env: { ...process.env, NODE_V8_COVERAGE: '', ...env }, stdio: ['ignore', 'pipe', 'pipe', ...inherited], detached: true
  }) as ChildProcessByStdio<null, Readable, Readable>
  t.teardown(() => {
    try {
      process.kill(-(child.pid as number), 'SIGKILL')
    } catch {
      // All of them have exited.
    }
  })
  const log = new Log()
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    log.read(stream)
    stream.on('data', (chunk: string) => { output += chunk })
  }
  const exit = once(child, 'close').then(([code, signal]) => {
    log.end(`The program ended with ${signal ?? code}. Its output:\n${output}`)
    return { code: code as number | null, signal: signal as NodeJS.Signals | null }
  })
  return {
    pid: child.pid as number,
    log,
    output: () => output,
    kill: signal => { child.kill(signal) },
    stopReading: () => { child.stdout.destroy() },
    pauseReading: (stream = 'stdout') => {
      child[stream].pause()
      return () => { child[stream].resume() }
    },
    killGroup: signal => { process.kill(-(child.pid as number), signal) },
    exit
  }
}

/** The port on which a program's Fastify listens, according to its log. */
export async function portOf ({ log }: Program): Promise<number> {
  const { msg } = await log.line(/listening at/)
  return Number(/:(\d+)$/.exec(msg)?.[1])
}

/** Milliseconds by which an exit may be late, on a busy machine. */
export const LATE = 1_000

/**
 * Sends a signal, and expects the program to exit by itself within `limit` milliseconds plus LATE, and the time for which it has waited for
 * a processor. Returns its exit code.
 */
export async function exitInTime (t: Test, program: Program, limit: number, signal?: NodeJS.Signals): Promise<number | null> {
  const start = performance.now()
  if (signal !== undefined) program.kill(signal)
  const before = waitedOf(program.pid)
  let waited = 0
  const observer = setInterval(() => { waited = Math.max(waited, waitedOf(program.pid) - before) }, 50)
  const timer = setTimeout(() => { program.killGroup('SIGKILL') }, limit + 10 * LATE)
  const exit = await program.exit
  clearTimeout(timer)
  clearInterval(observer)
  const time = performance.now() - start
  t.equal(exit.signal, null, 'not killed')
  t.ok(time < limit + LATE + waited, `gone after ${Math.round(time)}ms, of which it has waited ${Math.round(waited)}ms for a processor`)
  return exit.code
}
