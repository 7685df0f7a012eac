// What a leak would change: the heap after a garbage collection, listeners, and what keeps the process running.

import type { EventEmitter } from 'node:events'
import { setImmediate } from 'node:timers/promises'

export interface Sample {
  /** Seconds since the start. */
  at: number
  /** Requests, or instances, so far. */
  done: number
  /** Bytes. */
  heap: number
  /** How many there are, by emitter. */
  listeners: Record<string, number>
  /** Timers, sockets and other handles, by kind. */
  resources: Record<string, number>
}

/** Collections until all is freed that can be: finalizers run between them. */
const COLLECTIONS = 3

/** They end by themselves. */
const ONE_SHOT = new Set(['Immediate', 'FSReqCallback'])

export async function measure (done: number, emitters: Record<string, EventEmitter>): Promise<Sample> {
  for (let count = 0; count < COLLECTIONS; count++) {
    (globalThis.gc as () => void)()
    await setImmediate()
  }
  const { heapUsed, external } = process.memoryUsage()
  return {
    at: Math.round(performance.now() / 1_000),
    done,
    heap: heapUsed + external,
    listeners: Object.fromEntries(Object.entries(emitters).map(([name, emitter]) => [name, listenersOf(emitter)])),
    resources: countBy(process.getActiveResourcesInfo().filter(name => !ONE_SHOT.has(name)))
  }
}

/** Without 'exit': pino listens to it until its loggers have been collected. */
function listenersOf (emitter: EventEmitter): number {
  return emitter.eventNames().filter(event => event !== 'exit').reduce((sum, event) => sum + emitter.listenerCount(event), 0)
}

function countBy (names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names.toSorted()) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

/** The part of the samples in which caches still fill. */
const WARM_UP = 1 / 4
/** Bytes that the heap may grow by, whatever was done. */
const NOISE = 1024 * 1024

/** What is not flat. `perItem` is how many bytes each request or instance may leave, once that is more than the noise. */
export function faultsOf (all: readonly Sample[], perItem: number): string[] {
  const samples = all.slice(Math.ceil(all.length * WARM_UP))
  const growth = growthOf(samples)
  const faults: string[] = []
  const allowed = Math.max(NOISE, growth.items * perItem)
  if (growth.bytes > allowed) faults.push(`The heap has grown by ${kib(growth.bytes)} KiB in ${growth.items}; at most ${kib(allowed)} KiB are allowed`)
  for (const kind of ['listeners', 'resources'] as const) {
    for (const name of new Set(samples.flatMap(sample => Object.keys(sample[kind])))) {
      const counts = samples.map(sample => sample[kind][name] ?? 0)
      const [least, most] = [Math.min(...counts), Math.max(...counts)]
      if (least < most) faults.push(`The number of ${kind} of "${name}" is not constant: ${least} to ${most}`)
    }
  }
  return faults
}

/** What is there after close() that was not there before. */
export function leftovers (before: Sample, after: Sample): string[] {
  const listeners = (after.listeners['process'] ?? 0) - (before.listeners['process'] ?? 0)
  const resources = Object.entries(after.resources).filter(([name, count]) => count > (before.resources[name] ?? 0))
  return [
    ...listeners > 0 ? [`${listeners} listeners of the process are left`] : [],
    ...resources.map(([name, count]) => `${count - (before.resources[name] ?? 0)} ${name} are left`)
  ]
}

/** From the median of the first half to the median of the second half. */
export function growthOf (samples: readonly Sample[]): { bytes: number, items: number } {
  const middle = Math.floor(samples.length / 2)
  const halves = [samples.slice(0, middle), samples.slice(middle)].map(half => ({
    heap: median(half.map(({ heap }) => heap)), done: median(half.map(({ done }) => done))
  })) as [Record<'heap' | 'done', number>, Record<'heap' | 'done', number>]
  return { bytes: halves[1].heap - halves[0].heap, items: halves[1].done - halves[0].done }
}

function median (values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
}

function kib (bytes: number): number {
  return Math.round(bytes / 1024)
}
