// Clients that send requests continuously, never retry, and check each response. Half of them keep their connections, and half open a
// new one for each request, unless all must do so.

import { Agent, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

export type Failure = '503' | '502' | '504' | 'reset' | 'refused' | 'incomplete' | 'other'

export interface Failed {
  /** Milliseconds since the load began. */
  at: number
  kind: Failure
  what: string
  on: ConnectionKind
}

export type ConnectionKind = 'kept' | 'new'

export interface Load {
  readonly failed: Failed[]
  readonly requests: Record<ConnectionKind, number>
  /** Waits for the last response of each client. */
  stop: () => Promise<void>
}

export const CLIENTS = 40
/** The least number of milliseconds between two requests of a client: the example allows each client 100 requests per second. */
const PACE = { kept: 20, new: 100 }
/** Milliseconds that a request takes, at least and at most. */
const WORK = [2, 50] as const
/** One in this many requests writes. */
const WRITES = 10

/** How many clients there are of each kind. */
export function clientsOf (keepsClients: boolean): Record<ConnectionKind, number> {
  return keepsClients ? { kept: CLIENTS / 2, new: CLIENTS / 2 } : { kept: 0, new: CLIENTS }
}

export function startLoad (port: number, keepsClients: boolean): Load {
  const failed: Failed[] = []
  const start = performance.now()
  const requests = { kept: 0, new: 0 }
  const clients = clientsOf(keepsClients)
  const stopped = new AbortController()

  const loop = async (client: number): Promise<void> => {
    const on = client <= clients.kept ? 'kept' : 'new'
    const agent = new Agent({ keepAlive: on === 'kept', maxSockets: 1 })
    for (let index = 0; !stopped.signal.aborted; index++) {
      const next = sleep(PACE[on])
      const ms = WORK[0] + (client * 7 + index * 13) % (WORK[1] - WORK[0])
      const failure = await ask({ port, agent, ms, writes: index % WRITES === 0, address: `10.0.0.${client}` })
      requests[on]++
      if (failure !== undefined) failed.push({ ...failure, on, at: Math.round(performance.now() - start) })
      await next
    }
    agent.destroy()
  }
  const loops = Array.from({ length: CLIENTS }, async (_, client) => { await loop(client + 1) })
  return {
    failed,
    requests,
    stop: async () => {
      stopped.abort()
      await Promise.all(loops)
    }
  }
}

interface Question {
  port: number
  agent: Agent
  ms: number
  writes: boolean
  address: string
}

/** Sends one request; returns undefined if its response is correct and complete. */
async function ask ({ port, agent, ms, writes, address }: Question): Promise<Omit<Failed, 'at' | 'on'> | undefined> {
  const body = writes ? JSON.stringify({ text: `by ${address}` }) : ''
  const headers = writes ? { 'content-type': 'application/json', 'content-length': body.length } : {}
  return await new Promise(resolve => {
    const call = request({
      host: '127.0.0.1',
      port,
      agent,
      path: `/api/data?ms=${ms}`,
      method: writes ? 'POST' : 'GET',
      headers: { ...headers, 'x-forwarded-for': address }
    }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
      response.on('error', () => {})
      response.on('close', () => {
        const status = String(response.statusCode)
        const right = writes ? '201' : '200'
        if (!response.complete) resolve({ kind: 'incomplete', what: `${status} ${text.length} bytes` })
        else if (status !== right) resolve({ kind: isKnown(status) ? status : 'other', what: `${status} ${text.slice(0, 100)}` })
        else if (!isRight(text, ms, writes)) resolve({ kind: 'other', what: text.slice(0, 100) })
        else resolve(undefined)
      })
    })
    call.on('error', (error: NodeJS.ErrnoException) => {
      resolve({ kind: error.code === 'ECONNREFUSED' ? 'refused' : 'reset', what: `${error.code} ${error.message}` })
    })
    call.end(body)
  })
}

function isKnown (status: string): status is '502' | '503' | '504' {
  return ['502', '503', '504'].includes(status)
}

function isRight (text: string, ms: number, writes: boolean): boolean {
  const answer = JSON.parse(text) as { ms?: number, id?: unknown }
  return writes ? answer.id !== undefined : answer.ms === ms
}
