// Clients of all kinds, which come and go.

import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'undici'

export interface Ports { http1: number, http2: number }

/** One visit of a client. Resolves to what went wrong, if anything did. */
type Visit = (ports: Ports, index: number) => Promise<string | undefined>

/** How long a client waits after each visit, in milliseconds. */
const PACE = 15
const BODY = JSON.stringify({ text: 'x'.repeat(2_000) })

const kept = new Agent({ keepAlive: true, maxSockets: 8 })
const PATHS = ['/', '/slow?ms=5', '/ready', '/tracked', '/health']

/** A request whose response must be right. */
async function ask (port: number, index: number, agent: Agent | false): Promise<string | undefined> {
  const isUpload = index % 5 === 4
  const path = isUpload ? '/echo' : PATHS[index % PATHS.length] as string
  return await new Promise(resolve => {
    const headers = isUpload ? { 'content-type': 'application/json', 'content-length': BODY.length } : {}
    const call = request({ host: '127.0.0.1', port, agent: agent as Agent, path, method: isUpload ? 'POST' : 'GET', headers }, response => {
      let length = 0
      response.on('data', (chunk: Buffer) => { length += chunk.length })
      response.on('error', () => {})
      response.on('close', () => {
        const isRight = response.complete && [200, 202].includes(response.statusCode ?? 0) && (!isUpload || length === BODY.length)
        resolve(isRight ? undefined : `${path}: ${response.statusCode}, ${length} bytes`)
      })
    })
    call.on('error', (error: NodeJS.ErrnoException) => { resolve(`${path}: ${error.code ?? error.message}`) })
    call.end(isUpload ? BODY : undefined)
  })
}

/** Sends these bytes, waits, and resets or closes the connection. */
async function abandon (port: number, bytes: string, ms: number, how: 'end' | 'destroy' | 'resetAndDestroy'): Promise<undefined> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {}).resume().write(bytes)
  await sleep(ms)
  socket[how]()
  if (!socket.closed) await once(socket, 'close').catch(() => {})
}

const ENDS = ['end', 'destroy', 'resetAndDestroy'] as const
const GET = (path: string) => `GET ${path} HTTP/1.1\r\nHost: soak\r\n\r\n`
const UPLOAD = `POST /echo HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`

/** By kind: how many clients at a time, and what they do. */
const VISITS: Record<string, [clients: number, visit: Visit]> = {
  kept: [6, async ({ http1 }, index) => await ask(http1, index, kept)],
  new: [4, async ({ http1 }, index) => await ask(http1, index, false)],
  aborted: [2, async ({ http1 }, index) => await abandon(http1, GET('/slow?ms=10'), index % 15, ENDS[1 + index % 2] as 'destroy')],
  half: [2, async ({ http1 }, index) => {
    const text = index % 2 === 0 ? UPLOAD : GET('/slow?ms=5')
    return await abandon(http1, text.slice(0, 1 + index * 97 % (text.length - 1)), index % 10, ENDS[1 + index % 2] as 'destroy')
  }],
  silent: [1, async ({ http1 }, index) => await abandon(http1, '', index % 20, ENDS[index % 3] as 'end')],
  pipelined: [2, async ({ http1 }, index) => {
    const requests = Array.from({ length: 8 }, (_, one) => GET(`/slow?ms=${one % 3}`)).join('')
    return await abandon(http1, requests, index % 2 === 0 ? index % 10 : 60, ENDS[1 + index % 2] as 'destroy')
  }],
  'event stream': [2, async ({ http1 }, index) => await abandon(http1, GET('/events'), 15 + index % 40, ENDS[1 + index % 2] as 'destroy')],
  WebSocket: [2, async ({ http1 }, index) => {
    const socket = new WebSocket(`ws://127.0.0.1:${http1}/socket`)
    const closed = new Promise(resolve => { socket.addEventListener('close', resolve) })
    socket.addEventListener('error', () => {})
    socket.addEventListener('message', () => { socket.close() })
    socket.addEventListener('open', () => {
      if (index % 4 === 0) socket.close()
      else socket.send('hello')
    })
    await closed
    return undefined
  }],
  'HTTP/2': [2, async ({ http2 }, index) => {
    const session = connectHttp2(`http://127.0.0.1:${http2}`)
    session.on('error', () => {})
    const closed = new Promise(resolve => { session.on('close', resolve) })
    const streams = Array.from({ length: 6 }, (_, one) => {
      const stream = session.request({ ':path': one % 2 === 0 ? '/' : '/slow?ms=8' })
      stream.on('error', () => {}).resume()
      if (one === 3) stream.close(constants.NGHTTP2_CANCEL)
      return new Promise(resolve => { stream.on('close', resolve) })
    })
    // If the server is gone, not all streams are closed.
    if (index % 3 > 0) await Promise.race([Promise.all(streams), closed])
    if (index % 3 === 1) session.close()
    else session.destroy()
    await closed
    return undefined
  }]
}

export interface Round {
  visits: number
  /** What went wrong, where nothing may. */
  wrong: string[]
  done: Promise<void>
}

/** All kinds of clients, until the signal aborts; each ends its visit and closes its connections. */
export function startRound (ports: Ports, signal: AbortSignal): Round {
  const loops = Object.entries(VISITS).flatMap(([kind, [clients, visit]]) => Array.from({ length: clients }, async (_, client) => {
    for (let index = client; !signal.aborted; index += clients) {
      const wrong = await visit(ports, index)
      round.visits++
      if (wrong !== undefined) round.wrong.push(`${kind}: ${wrong}`)
      await sleep(PACE)
    }
  }))
  const round: Round = { visits: 0, wrong: [], done: Promise.all(loops).then(() => { kept.destroy() }) }
  return round
}
