// The example as a child process: started, listened to, and never left behind.

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

/** What the service logs as it enters a phase. */
const PHASES: ReadonlyArray<[message: RegExp, phase: Phase]> = [
  [/^Not ready any more, still serving/, 'delaying'],
  [/^Waiting for \d+ in-flight/, 'draining'],
  [/^All requests drained/, 'closing'],
  [/^Graceful shutdown complete|^Shutdown complete/, 'closed']
]

/** The rest of what it logs about its shutdown; requests are logged, too. */
const STEPS = /received, shutting down$|^Shutdown callback/

const WARN = 40

export class Service {
  /** Where it listens. */
  readonly url: Promise<string>
  /** Settles when the process is gone. */
  readonly gone: Promise<void>
  readonly #child: ChildProcess

  /** @param onLine is told each line of the log that is about the shutdown, and warnings */
  constructor (env: Record<string, string>, recording: Recording, onLine: (line: string) => void) {
    this.#child = spawn(process.execPath, ['--import', 'tsx', 'example/server.ts'], {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit']
    })
    // However the demo ends, by an error or a Ctrl-C, the service does not stay behind.
    const end = () => { this.kill() }
    process.on('exit', end)
    this.#child.once('exit', code => {
      process.off('exit', end)
      recording.exitAt = Date.now()
      recording.exitCode = code
    })
    // 'close' comes when the last of its log has been read, too.
    this.gone = once(this.#child, 'close').then(() => {})
    this.url = new Promise((resolve, reject) => {
      this.#follow(recording, onLine, resolve)
      void this.gone.then(() => { reject(new Error('The service has ended before it listened')) })
    })
  }

  signal (name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Ends the process by force, if it is there. */
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
