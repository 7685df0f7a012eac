// Each shutdown as one trace for OpenTelemetry: a span for the shutdown, and in it one for each phase and callback.

import type { Span, Tracer } from '@opentelemetry/api'
import type { FastifyInstance } from 'fastify'
import type { DiagnosticsChannels } from '../index.ts'
import { SpanStatusCode, context, trace } from '@opentelemetry/api'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'

interface Spans {
  shutdown: Span
  phase: Span
}

/** Traces the shutdowns of all instances in this process. Returns a function that stops it. */
export function traceShutdowns (tracer: Tracer): () => void {
  const instances = new WeakMap<FastifyInstance, Spans>()

  const unlisten = [
    listen('phase', ({ fastify, phase, reason }) => {
      const before = instances.get(fastify)
      // The first phase is the start of the shutdown. It is a trace of its own, also if a request has started it.
      const shutdown = before?.shutdown ?? tracer.startSpan('shutdown', { root: true, attributes: { 'shutdown.reason': reason } })
      before?.phase.end()
      if (phase === 'closed') return
      instances.set(fastify, { shutdown, phase: tracer.startSpan(phase, {}, inside(shutdown)) })
    }),
    listen('callback', ({ fastify, callback: { name, time, error } }) => {
      const parent = instances.get(fastify)?.phase
      if (parent === undefined) return
      const span = tracer.startSpan(`callback ${name}`, { startTime: Date.now() - time }, inside(parent))
      if (error !== undefined) fail(span, error)
      span.end()
    }),
    listen('cut', ({ fastify, entry, code }) => {
      // A timeout may also cut a request while the instance serves.
      instances.get(fastify)?.shutdown.addEvent('cut', { code, name: entry.kind === 'task' ? entry.name : entry.route ?? '', age: entry.age })
    }),
    listen('report', ({ fastify, report: { completed, refused, cut, errors, exitCode } }) => {
      const span = instances.get(fastify)?.shutdown
      if (span === undefined) return
      span.setAttributes({ 'shutdown.completed': completed, 'shutdown.refused': refused, 'shutdown.cut': cut.length })
      for (const error of errors) span.recordException(error)
      if (exitCode !== 0) span.setStatus({ code: SpanStatusCode.ERROR })
      span.end()
    })
  ]
  return () => { for (const stop of unlisten) stop() }
}

/**
 * Sends the last spans before the process exits. The plugin does not end a process in which other code has called `shutdown()`, so it
 * exits when nothing is left to do, and at `shutdownTimeout` at the latest, with code 1.
 */
export function sendBeforeExit (app: FastifyInstance, send: () => Promise<void>): void {
  app.gracefulShutdown.signal.addEventListener('abort', () => {
    void app.gracefulShutdown.shutdown().then(send)
  })
}

function inside (span: Span) {
  return trace.setSpan(context.active(), span)
}

function fail (span: Span, error: Error): void {
  span.recordException(error)
  span.setStatus({ code: SpanStatusCode.ERROR, message: error.message })
}

type Short<Name> = Name extends `fastify-graceful:${infer S}` ? S : never

function listen<S extends Short<keyof DiagnosticsChannels>> (
  name: S, listener: (message: DiagnosticsChannels[`fastify-graceful:${S}`]) => void
): () => void {
  const onMessage = (message: unknown) => { listener(message as DiagnosticsChannels[`fastify-graceful:${S}`]) }
  subscribe(`fastify-graceful:${name}`, onMessage)
  return () => { unsubscribe(`fastify-graceful:${name}`, onMessage) }
}
