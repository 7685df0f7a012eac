// What the service tells the runner, one event a line, in the order in which it happens. The service writes each event
// synchronously, so that nothing is lost when it exits.

import type { Lag } from './lag.ts'
import type { CallbackReport, InFlightEntry, ShutdownReport } from '../../types/index.ts'

export type TraceEvent = { t: number } & (
  | { e: 'listening', i: number, port: number }
  /** A request has arrived, before all hooks. */
  | { e: 'arrived', i: number, url: string, method: string }
  | { e: 'handler', i: number, url: string }
  | { e: 'handled', i: number, url: string }
  /** A response has been given to the kernel. */
  | { e: 'sent', i: number, url: string, status: number }
  /** A hook of a request that takes time, or the stream that answers it. */
  | { e: 'hook', i: number, url: string, name: string }
  | { e: 'hooked', i: number, url: string, name: string }
  | { e: 'phase', i: number, phase: string, reason: string, count: number }
  | { e: 'refused', i: number, url: string | undefined }
  | { e: 'cut', i: number, entry: InFlightEntry, code: string }
  /** A preClose or onClose hook, a callback, a task. */
  | { e: 'step', i: number, of: StepKind, name: string, ms?: number }
  | { e: 'stepped', i: number, of: StepKind, name: string, isFailed: boolean }
  | { e: 'report', i: number, report: ReportFacts, count: number }
  | { e: 'websocket', i: number }
  | { e: 'message', i: number }
  /** The service does what a trigger asks for. */
  | { e: 'trigger', kind: string }
  | { e: 'warning', text: string }
  | { e: 'exit', code: number, lags: Lag[] }
)

export type StepKind = 'preClose' | 'onClose' | 'callback' | 'task'

export type EventOf<E extends TraceEvent['e']> = Extract<TraceEvent, { e: E }>

/** The report, with errors as messages. */
export interface ReportFacts extends Omit<ShutdownReport, 'errors' | 'callbacks'> {
  errors: string[]
  callbacks: Array<Omit<CallbackReport, 'error'> & { error?: string }>
}

/** Milliseconds on a clock that all processes of the machine share. */
export function monotonic (): number {
  return Number(process.hrtime.bigint()) / 1e6
}
