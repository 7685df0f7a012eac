// The process under attack, seen from outside: its exit, its memory, its stderr.

import type { ChildProcess } from 'node:child_process'
import type { Readable } from 'node:stream'
import type { GracefulOptions } from '../../index.ts'
import type { Seen } from './service.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { waitedOf } from '../waited.ts'

export type Protocol = 'http' | 'https' | 'h2c'

/** The options of the plugin: short times, and defaults for the rest. */
export const OPTIONS = {
  shutdownDelay: 300, drainTimeout: 1_500, shutdownTimeout: 8_000, readTimeout: 3_000, writeTimeout: 3_000
}

/** The options of Node with which these programs run. */
export const TYPESCRIPT = [`--import=${new URL('../typescript.mjs', import.meta.url).href}`]

/**
 * MiB of the service's heap, at most. Without a limit, V8 lets garbage grow as fast as the clients are; with it, what a run shows is used,
 * and a service that needs more aborts.
 */
const HEAP = 128

/** Milliseconds between two measurements. */
const INTERVAL = 50

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
  /** Milliseconds from the signal to the exit. */
  time: number
}

/** The part of the plugin's report that is checked. */
export interface Report {
  cut: number
  errors: string[]
}

export class Target {
  readonly port: number
  readonly protocol: Protocol
  readonly exit: Promise<Omit<Exit, 'time'>>
  readonly seen: Seen = {}
  stderr = ''
  readonly #child: ChildProcess
  readonly #log: string
  readonly #timer: NodeJS.Timeout
  /** The peak of resident memory since the last `mark()`, in MiB. */
  #peak = 0
  /** Milliseconds for which its main thread has waited for a processor: now, and at the last `mark()`. */
  #waited = 0
  #waitedBefore = 0

  private constructor (child: ChildProcess, protocol: Protocol, log: string, port: number) {
    this.#child = child
    this.protocol = protocol
    this.#log = log
    this.port = port
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => { this.stderr += chunk })
    createInterface(child.stdio[3] as Readable).on('line', line => { Object.assign(this.seen, JSON.parse(line) as Seen) })
    this.exit = once(child, 'close').then(([code, signal]) => ({ code: code as number | null, signal: signal as NodeJS.Signals | null }))
    this.#timer = setInterval(() => { this.#measure() }, INTERVAL)
    void this.exit.then(() => { clearInterval(this.#timer) })
  }

  /**
   * Starts it, and waits until it listens.
   * @param plugin the path of the built plugin; none for bare Fastify
   * @param home a folder with the certificate, for the log
   */
  static async start (protocol: Protocol, plugin: string, home: string, options: GracefulOptions = {}): Promise<Target> {
    const logPath = join(home, `${protocol}.log`)
    const log = openSync(logPath, 'w')
    const program = fileURLToPath(new URL('service.ts', import.meta.url))
    const child = spawn(process.execPath, [...TYPESCRIPT, `--max-old-space-size=${HEAP}`, program], {
      env: { ...process.env, PROTOCOL: protocol, PLUGIN: plugin, OPTIONS: JSON.stringify({ ...OPTIONS, ...options }), TLS: protocol === 'https' ? home : '' },
      stdio: ['ignore', log, 'pipe', 'pipe']
    })
    closeSync(log)
    const [line] = await Promise.race([once(child.stdio[3] as Readable, 'data'), once(child, 'exit')]) as [Buffer | number]
    if (!Buffer.isBuffer(line)) throw new Error(`The service does not start: ${String(child.stderr?.read())}`)
    return new Target(child, protocol, logPath, Number((JSON.parse(line.toString()) as Seen).port))
  }

  #measure (): void {
    try {
      const kibibytes = /^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${this.#child.pid}/status`, 'utf8'))?.[1] ?? 0
      this.#peak = Math.max(this.#peak, Number(kibibytes) / 1_024)
      this.#waited = waitedOf(this.#child.pid) || this.#waited
    } catch {
      // It has gone.
    }
  }

  /** Returns the peak of its resident memory since the last call, in MiB; the next one starts at what it uses now. */
  mark (): number {
    this.#measure()
    const peak = this.#peak
    // Resets the kernel's own peak.
    writeFileSync(`/proc/${this.#child.pid}/clear_refs`, '5')
    this.#peak = 0
    this.#waitedBefore = this.#waited
    return peak
  }

  /** The peak of its resident memory since the last `mark()`, in MiB. */
  get peak (): number {
    return this.#peak
  }

  /** Milliseconds for which it has waited for a processor since the last `mark()`, because others used them. */
  get waited (): number {
    return this.#waited - this.#waitedBefore
  }

  /** Sends SIGTERM, and SIGKILL if it does not exit within `patience` milliseconds. */
  async terminate (patience: number): Promise<Exit> {
    const start = performance.now()
    this.#child.kill('SIGTERM')
    const timer = setTimeout(() => { this.kill() }, patience)
    // Not 'close', which may come later.
    if (this.#child.exitCode === null) await once(this.#child, 'exit')
    const time = performance.now() - start
    clearTimeout(timer)
    return { ...await this.exit, time }
  }

  /** What the plugin has reported, by the log: a report that is all well is at level info, which the log omits. */
  get report (): Report {
    for (const line of readFileSync(this.#log, 'utf8').split('\n')) {
      if (!line.includes('"report":{')) continue
      const { report } = JSON.parse(line) as { report: { cutCount: number, errors: unknown[], callbacks: Array<{ error?: unknown }> } }
      const errors = [...report.errors, ...report.callbacks.flatMap(({ error = [] }) => error)]
      return { cut: report.cutCount, errors: errors.map(error => JSON.stringify(error)) }
    }
    return { cut: 0, errors: [] }
  }

  /** Kills it, if it is running. */
  kill (): void {
    this.#child.kill('SIGKILL')
  }
}
