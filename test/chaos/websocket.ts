// A client with a WebSocket.

import type { Socket } from './scenario.ts'
import WebSocket from 'ws'
import { monotonic } from './trace.ts'

export interface WebSocketVisit {
  client: number
  startedAt: number
  /** When it was open; undefined if it never was. */
  openedAt?: number
  endedAt: number
  /** The status of the answer, if that was no upgrade. */
  status?: number
  /** The code with which it was closed. */
  code?: number
  sent: number
  echoed: number
  error?: string
}

export async function visitWebSocket (client: Socket, index: number, url: string, over: Promise<void>): Promise<WebSocketVisit> {
  const visit: WebSocketVisit = { client: index, startedAt: monotonic(), endedAt: Infinity, sent: 0, echoed: 0 }
  const socket = new WebSocket(url, { rejectUnauthorized: false })
  let timer: NodeJS.Timeout | undefined
  socket.on('open', () => {
    visit.openedAt = monotonic()
    timer = setInterval(() => {
      if (socket.readyState !== WebSocket.OPEN) return
      visit.sent++
      socket.send('hello')
    }, client.pause)
  })
  socket.on('message', () => { visit.echoed++ })
  socket.on('unexpected-response', (request, response) => {
    if (response.statusCode !== undefined) visit.status = response.statusCode
    request.destroy()
  })
  socket.on('error', error => { visit.error = (error as NodeJS.ErrnoException).code ?? error.message })
  // ws answers a close by itself; this client is silent instead.
  if (!client.answersClose) socket.on('open', () => { socket.pause() })
  const closed = new Promise<void>(resolve => {
    socket.on('close', code => {
      visit.code = code
      resolve()
    })
  })
  void over.then(() => { setTimeout(() => { socket.terminate() }, 100).unref() })
  await closed
  clearInterval(timer)
  visit.endedAt = monotonic()
  return visit
}
