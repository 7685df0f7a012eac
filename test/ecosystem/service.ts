// A program with a plugin, and its clients. The program gets SIGTERM while requests are in flight; a test checks what the clients
// read, the report and the exit code.

import type { IncomingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import type { ShutdownReport } from '../../types/index.ts'
import { Agent, request } from 'node:http'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { portOf, RawClient, runNode, type Log, type Program } from '../helpers.ts'

/** What a client read. */
export interface Answer {
  status: number | undefined
  headers: IncomingHttpHeaders
  body: Buffer
  /** Whether the whole body arrived. */
  complete: boolean
  /** The code of the error that the client saw. */
  error?: string
}

/** How a program ended. */
export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  /** From the log; undefined if the program did not write it. */
  report: ShutdownReport | undefined
  /** Warnings and errors in the log, and all output that is not a log line. */
  complaints: string[]
}

/** A level of pino. */
const INFO = 30
const { ECOSYSTEM_PROGRAMS = '' } = process.env

/** For clients whose package is installed with the programs. */
export const requireInstalled = createRequire(join(resolve(ECOSYSTEM_PROGRAMS), 'client.cjs'))

/** Starts a program in `programs`, which ends with the test. */
export async function start (t: Test, name: string, env: Record<string, string> = {}): Promise<Service> {
  return await serviceOf(runNode(t, [programPath(`${name}.cjs`)], env, []))
}

/** Starts a program of an installed package with arguments, which ends with the test. */
export async function startInstalled (t: Test, path: string, args: readonly string[], env: Record<string, string>): Promise<Service> {
  return await serviceOf(runNode(t, [requireInstalled.resolve(path), ...args], env, []))
}

/** The path of a file of `programs`. */
export function programPath (name: string): string {
  return join(ECOSYSTEM_PROGRAMS, name)
}

async function serviceOf (program: Program): Promise<Service> {
  const port = await Promise.race([portOf(program), program.exit])
  if (typeof port !== 'number') throw new Error(`The program does not start, in ${ECOSYSTEM_PROGRAMS || 'no folder: use npm run test:ecosystem'}\n${program.output()}`)
  return new Service(program, port)
}

export class Service {
  readonly port: number
  readonly log: Log
  readonly #program: Program

  constructor (program: Program, port: number) {
    this.#program = program
    this.port = port
    this.log = program.log
  }

  async get (path: string, headers: Record<string, string> = {}): Promise<Answer> {
    return await this.#request('GET', path, headers)
  }

  async post (path: string, body: Readable, headers: Record<string, string> = {}): Promise<Answer> {
    return await this.#request('POST', path, headers, body)
  }

  /** A client whose response can be read while it arrives. */
  stream (path: string, headers: readonly string[] = []): RawClient {
    return new RawClient(this.port).get(path, headers)
  }

  /** Waits until the program holds a request with this path. */
  async holds (path: string): Promise<void> {
    await this.log.line(new RegExp(`^holds ${path}$`))
  }

  /** Sends SIGTERM, and waits until the program drains, because of the plugin's signal handler or of a call of close() by other code. */
  async sigterm (): Promise<void> {
    this.#program.kill('SIGTERM')
    await this.log.line(/^SIGTERM received|^Shutting down: close$/)
  }

  /** Lets the program answer the held requests. */
  async release (): Promise<void> {
    await this.get('/release')
  }

  async ended (): Promise<Ended> {
    const exit = await this.#program.exit
    const { report } = this.log.lines.findLast(line => 'report' in line) as { report?: ShutdownReport } ?? {}
    const complaints = [
      ...this.log.lines.filter(({ level }) => level > INFO).map(({ msg }) => msg),
      ...this.#program.output().split('\n').filter(line => line !== '' && !line.startsWith('{'))
    ]
    return { ...exit, report, complaints }
  }

  async #request (method: string, path: string, headers: Record<string, string>, body?: Readable): Promise<Answer> {
    return await new Promise(settle => {
      const answer: Answer = { status: undefined, headers: {}, body: Buffer.alloc(0), complete: false }
      const end = (error?: NodeJS.ErrnoException) => {
        if (error !== undefined) answer.error = error.code ?? error.message
        settle(answer)
      }
      // Each request has its own connection, which then stays idle: it may close under a second request.
      const agent = new Agent({ keepAlive: true })
      const outgoing = request({ host: '127.0.0.1', port: this.port, method, path, headers, agent })
      outgoing.on('error', end)
      outgoing.on('response', response => {
        answer.status = response.statusCode
        answer.headers = response.headers
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => { chunks.push(chunk) })
        response.on('error', end)
        response.on('close', () => {
          answer.body = Buffer.concat(chunks)
          answer.complete = response.complete
          end()
        })
      })
      if (body === undefined) outgoing.end()
      else body.pipe(outgoing)
    })
  }
}
