// A process of the measured program, and the questions that it answers.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

/** The program answers with a number; see server.ts. */
export type Question = 'heapUsed' | 'readTime' | 'waiting' | 'connections' | 'cpu'

export interface Answer {
  question: Question | 'port'
  value: number
}

export interface Settings {
  /** Where the bench and the package have been built; see build.ts. */
  directory: string
  subject: string
  logger?: boolean
  /** Options of Node. */
  flags?: readonly string[]
  /** A command that runs Node, and its arguments. */
  under?: readonly string[]
}

const running = new Set<ChildProcess>()
process.on('exit', () => { for (const child of running) child.kill('SIGKILL') })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

export class Program {
  readonly #child: ChildProcess
  readonly port: number

  private constructor (child: ChildProcess, port: number) {
    this.#child = child
    this.port = port
  }

  /** Resolves when the program listens. */
  static async start ({ directory, subject, logger = false, flags = [], under = [] }: Settings): Promise<Program> {
    const words = [...under, process.execPath, ...flags, join(directory, 'bench/server.js')]
    const child = spawn(words[0] ?? '', words.slice(1), {
      env: { ...process.env, NODE_OPTIONS: '', SUBJECT: subject, LOGGER: logger ? 'yes' : '' },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc']
    })
    let complaint = ''
    child.stderr?.on('data', (chunk: Buffer) => { complaint += chunk.toString() })
    running.add(child)
    child.on('exit', () => { running.delete(child) })
    const early = once(child, 'exit').then(([code]) => { throw new Error(`${subject} ended at its start, with ${code}: ${complaint}`) })
    early.catch(() => {})
    const [{ value }] = await Promise.race([once(child, 'message') as Promise<[Answer]>, early])
    return new Program(child, value)
  }

  get pid (): number {
    return this.#child.pid as number
  }

  async ask (question: Question): Promise<number> {
    const answer = once(this.#child, 'message') as Promise<[Answer]>
    this.#child.send(question)
    const [{ value }] = await answer
    return value
  }

  kill (signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** Resolves when the process has exited. */
  async gone (): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit')
  }

  /** Kills the process. */
  async end (): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.gone()
  }
}
