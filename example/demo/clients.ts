// The clients: 50 requests of different lengths, a client that keeps sending new ones, and a prober.

import type { Dispatcher } from 'undici'
import type { Call, InFlightCall, Recording } from './recording.ts'
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent, request } from 'undici'

/** One every 12 ms stays below the service's 100 requests a second. */
const LOAD = { requests: 50, every: 12, shortest: 900, longest: 4_000 }
const KNOCK_EVERY = 50
const PROBE_EVERY = 100

/** A client that waits so long for a byte gives up, and the request is lost. */
const PATIENCE = { headersTimeout: 8_000, bodyTimeout: 8_000 }

const JSON_TYPE = { 'content-type': 'application/json' }

/** Sends the requests that shall be in flight; resolves when all have been sent. */
export async function sendLoad (url: string, { load }: Recording): Promise<{ ended: Promise<void> }> {
  // Keep-alive connections, as a service's real clients have them: the last answer must close each.
  const dispatcher = new Agent({ connections: LOAD.requests })
  const ended = []
  for (let index = 0; index < LOAD.requests; index++) {
    ended.push(sendOne(url, index, dispatcher, load))
    await sleep(LOAD.every)
  }
  return { ended: Promise.all(ended).then(async () => { await dispatcher.close() }) }
}

/** Each other one writes a note to the database, at the end of its work. */
async function sendOne (url: string, index: number, dispatcher: Dispatcher, load: InFlightCall[]): Promise<void> {
  const ms = lengthOf(index)
  const text = `Note ${index} of the demo`
  const writes = index % 2 === 0
  const call: InFlightCall = { ...newCall(writes ? 'POST' : 'GET'), note: undefined }
  load.push(call)
  const write = { headers: JSON_TYPE, body: JSON.stringify({ text }) }
  await settle(call, url, `/api/data?ms=${ms}`, { dispatcher, ...writes ? write : {} }, (status, body) => {
    if (!writes) return status === 200 && (body as { ms?: number }).ms === ms
    call.note = body as { id: number, text: string }
    return status === 201 && call.note.text === text
  })
}

/** Different, evenly spread, the same in each run; and the first one sent is still in flight when the last one is. */
function lengthOf (index: number): number {
  const GOLDEN = 0.618034
  const spread = (index * GOLDEN) % 1
  const toCome = (LOAD.requests - 1 - index) * LOAD.every
  const shortest = LOAD.shortest + toCome
  return Math.round(shortest + spread * (LOAD.longest - LOAD.shortest - LOAD.requests * LOAD.every))
}

/** Waits until the service has received all of them; resolves to how many are in flight, as its readiness probe says. */
export async function allInFlight (url: string, { load }: Recording, dispatcher: Dispatcher): Promise<number> {
  for (;;) {
    const { body } = await request(`${url}/ready`, { dispatcher, ...PATIENCE })
    const { in_flight_requests: inFlight } = await body.json() as { in_flight_requests: number }
    const over = load.filter(({ end }) => end !== undefined).length
    if (inFlight + over >= LOAD.requests) return inFlight
    await sleep(5)
  }
}

/** Goes on asking, each time over a new connection, until the signal; resolves when the last one has its answer. */
export async function knock (url: string, { knocks }: Recording, { signal, dispatcher }: Asking): Promise<void> {
  const ended = await repeat(KNOCK_EVERY, signal, async () => {
    const call = newCall('GET')
    knocks.push(call)
    await settle(call, url, '/api/data', { dispatcher }, status => status === 200)
  })
  await Promise.all(ended)
}

/** Asks both probes, as an orchestrator and a load balancer do, only more often. */
export async function probe (url: string, { probes }: Recording, { signal, dispatcher }: Asking): Promise<void> {
  const ended = await repeat(PROBE_EVERY, signal, async () => {
    await Promise.all((['/health', '/ready'] as const).map(async path => {
      probes.push({ at: Date.now(), path, status: await statusOf(url + path, dispatcher) })
    }))
  })
  await Promise.all(ended)
}

export interface Asking {
  /** When to stop. */
  signal: AbortSignal
  dispatcher: Dispatcher
}

/** A client that opens a new connection for each request, so that no pool hides a listener that is gone. */
export function newConnections (): Agent {
  return new Agent({ pipelining: 0 })
}

async function repeat (every: number, signal: AbortSignal, task: () => Promise<void>): Promise<Array<Promise<void>>> {
  const started = []
  while (!signal.aborted) {
    started.push(task())
    // A sleep, not an interval: after a hold-up it does not make up for what it has missed, all at once.
    await sleep(every)
  }
  return started
}

async function statusOf (url: string, dispatcher: Dispatcher): Promise<number | undefined> {
  try {
    const { statusCode, body } = await request(url, { dispatcher, ...PATIENCE })
    await body.dump()
    return statusCode
  } catch {
    return undefined
  }
}

type RequestOptions = Pick<Dispatcher.RequestOptions, 'headers' | 'body'> & { dispatcher: Dispatcher }

/** Makes the request, and notes how it ended. */
async function settle (
  call: Call, url: string, path: string, options: RequestOptions, isRight: (status: number, body: unknown) => boolean
): Promise<void> {
  let hasAnswer = false
  try {
    const { statusCode, body } = await request(url + path, { method: call.method, ...PATIENCE, ...options })
    hasAnswer = true
    const text = await body.text()
    const answer: unknown = JSON.parse(text)
    if (isRight(statusCode, answer)) call.outcome = 'answered'
    else if ((answer as { code?: string }).code === 'FST_ERR_GRACEFUL_SHUTTING_DOWN') call.outcome = 'refused'
    else lose(call, `${statusCode} ${text}`)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    // Refused, or reset with the listener: the kernel had taken the connection after the service had accepted all before it.
    if (code === 'ECONNREFUSED' || (code === 'ECONNRESET' && !hasAnswer && await isRefused(url))) call.outcome = 'turned away'
    else lose(call, `${code ?? 'error'} ${message}`)
  }
  call.end = Date.now()
}

async function isRefused (url: string): Promise<boolean> {
  const { port, hostname } = new URL(url)
  const socket = connect(Number(port), hostname)
  try {
    await once(socket, 'connect')
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ECONNREFUSED'
  } finally {
    socket.destroy()
  }
}

function lose (call: Call, detail: string): void {
  call.outcome = 'lost'
  call.detail = detail.slice(0, 200)
}

function newCall (method: 'GET' | 'POST'): Call {
  return { method, start: Date.now(), end: undefined, outcome: undefined, detail: '' }
}
