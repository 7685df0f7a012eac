// The example service as a child process. It never outlives the demo.

import type { ChildProcess } from 'node:child_process'
import type { Phase, ShutdownReport } from '../../index.ts'
import type { Recording } from './recording.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

interface LogLine {
  level: number
  time: number
  msg: string
  report?: ShutdownReport
}

/** The log line with which each phase begins. */
const PHASES: ReadonlyArray<[message: RegExp, phase: Phase]> = [
  [/^Not ready any more, still serving/, 'delaying'],
  [/^Waiting for \d+ in-flight/, 'draining'],
  [/^All requests drained/, 'closing'],
  [/^Graceful shutdown complete|^Shutdown complete/, 'closed']
]

/** Other log lines about the shutdown; the log also has the requests. */
const STEPS = /received, shutting down$|^Shutdown callback/

const WARN = 40

export class Service {
  /** Its URL. */
  readonly url: Promise<string>
  /** Resolves when the process has exited. */
  readonly gone: Promise<void>
  readonly #child: ChildProcess

  /** @param onLine is called with each log line about the shutdown, and with warnings */
  constructor (env: Record<string, string>, recording: Recording, onLine: (line: string) => void) {
    this.#child = spawn(process.execPath, ['--import', 'tsx', 'example/server.ts'], {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit']
    })
    // Also if the demo ends by an error or Ctrl-C.
    const end = () => { this.kill() }
    process.on('exit', end)
    this.#child.once('exit', code => {
      process.off('exit', end)
      recording.exitAt = Date.now()
      recording.exitCode = code
    })
    // 'close' is emitted when its log has also been read to the end.
    this.gone = once(this.#child, 'close').then(() => {})
    this.url = new Promise((resolve, reject) => {
      this.#follow(recording, onLine, resolve)
      void this.gone.then(() => { reject(new Error('The service exited before it listened')) })
    })
  }

  signal (name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Kills the process if it is running. */
  kill (): void {
    this.#child.kill('SIGKILL')
  }

  #follow (recording: Recording, onLine: (line: string) => void, onUrl: (url: string) => void): void {
    createInterface({ input: this.#child.stdout! }).on('line', text => {
      const line = parse(text)
      const url = /^Server listening at (http:\S+)/.exec(line.msg)?.[1]
      if (url !== undefined) onUrl(url)
      recording.report = line.report ?? recording.report
      const phase = PHASES.find(([message]) => message.test(line.msg))?.[1]
      if (phase !== undefined && recording.phases.at(-1)?.phase !== phase) recording.phases.push({ phase, at: line.time })
      if (phase !== undefined || STEPS.test(line.msg) || line.level >= WARN) onLine(line.msg)
    })
  }
}

function parse (text: string): LogLine {
  try {
    return JSON.parse(text) as LogLine
  } catch {
    return { level: WARN, time: Date.now(), msg: text }
  }
}
