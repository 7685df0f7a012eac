// Plays one scenario: a process with the service, the crowd of clients, the signals.

import type { ChildProcess } from 'node:child_process'
import type { Readable } from 'node:stream'
import type { Answer } from './answer.ts'
import type { Lag } from './lag.ts'
import type { Scenario, Trigger } from './scenario.ts'
import type { EventOf, TraceEvent } from './trace.ts'
import type { WebSocketVisit } from './websocket.ts'
import { spawn } from 'node:child_process'
import { gather } from './crowd.ts'
import { openListener } from '../inherited.ts'
import { watchLag } from './lag.ts'
import { monotonic } from './trace.ts'

/** How much longer than its shutdownTimeout a process may take before it is killed. */
const PATIENCE = 10_000

export interface LogLine {
  level: number
  msg: string
  name: string
  [key: string]: unknown
}

export interface Observation {
  trace: TraceEvent[]
  answers: Answer[]
  webSockets: WebSocketVisit[]
  log: LogLine[]
  stderr: string
  exit: { code: number | null, signal: NodeJS.Signals | null, t: number }
  /** The signals that were sent. */
  signals: Array<{ t: number, kind: Trigger['kind'] }>
  /** How late timers were, in the service and here. */
  lags: Lag[]
}

export interface Stage {
  /** The Node.js binary that runs the service. */
  node: string
  /** The bundled service. */
  file: string
  tls: { key: string, cert: string }
}

/** Processes that have started, and wait for their scenario. */
const waiting = new Map<string, Array<Promise<ChildProcess>>>()
const alive = new Set<ChildProcess>()

async function start ({ node, file }: Stage): Promise<ChildProcess> {
  const { server, fd } = await openListener()
  const child = spawn(node, [file], { stdio: ['pipe', 'pipe', 'pipe', 'pipe', fd, fd], env: { PATH: process.env.PATH } })
  server.close()
  alive.add(child)
  child.once('close', () => { alive.delete(child) })
  return child
}

/** Starts a process ahead of its run. */
export function prepare (stage: Stage): void {
  const key = `${stage.node} ${stage.file}`
  waiting.set(key, [...waiting.get(key) ?? [], start(stage)])
}

/** Ends all processes, however this ends. */
export function endAll (): void {
  for (const child of alive) child.kill('SIGKILL')
}

function lines (stream: Readable, onLine: (line: never) => void): void {
  let rest = ''
  stream.setEncoding('utf8').on('data', (chunk: string) => {
    const parts = (rest + chunk).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) onLine(JSON.parse(part) as never)
  })
}

export async function play (stage: Stage, scenario: Scenario): Promise<Observation> {
  const child = await (waiting.get(`${stage.node} ${stage.file}`)?.pop() ?? start(stage))
  const trace: TraceEvent[] = []
  const log: LogLine[] = []
  const signals: Observation['signals'] = []
  let stderr = ''
  const exited = new Promise<Observation['exit']>(resolve => {
    let t = 0
    child.once('exit', () => { t = monotonic() })
    child.once('close', (code, signal) => { resolve({ code, signal, t }) })
  })
  const listening = new Promise<void>(resolve => {
    lines(child.stdio[3] as Readable, (event: TraceEvent) => {
      trace.push(event)
      if (trace.filter(({ e }) => e === 'listening').length === scenario.instances.length) resolve()
    })
  })
  lines(child.stdout as Readable, (line: LogLine) => { log.push(line) })
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => { stderr += chunk })
  child.stdin?.on('error', () => {}).end(JSON.stringify({ scenario, tls: stage.tls }))
  await Promise.race([listening, exited])

  const lags = watchLag()
  const ports = trace.filter((event): event is EventOf<'listening'> => event.e === 'listening').map(({ port }) => port)
  const timers: NodeJS.Timeout[] = []
  const after = (ms: number, act: () => void): void => { timers.push(setTimeout(act, ms)) }
  for (const { at, kind } of scenario.triggers.filter(({ kind: name }) => name.startsWith('SIG'))) {
    after(at, () => { if (child.kill(kind as NodeJS.Signals)) signals.push({ t: monotonic(), kind }) })
  }
  const [last, longest] = [scenario.triggers.map(({ at }) => at), scenario.instances.map(({ shutdownTimeout }) => shutdownTimeout)]
  after(Math.max(...last) + Math.max(...longest) + PATIENCE, () => { child.kill('SIGKILL') })
  const crowd = gather(scenario, ports)
  const exit = await exited
  for (const timer of timers) clearTimeout(timer)
  const here = lags()
  await crowd.end()
  const service = trace.find((event): event is EventOf<'exit'> => event.e === 'exit')?.lags ?? []
  return { trace, answers: crowd.answers, webSockets: crowd.webSockets, log, stderr, exit, signals, lags: [...service, ...here] }
}
