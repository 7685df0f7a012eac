// A client that keeps what it reads.

import type { AddressInfo, Server } from 'node:net'
import type { ClientResponse, RequestOptions } from '../../types/testing.ts'
import http, { type IncomingMessage } from 'node:http'
import https from 'node:https'
import tls from 'node:tls'
import { assertValid, known } from '../options.ts'

interface Sent {
  /** Resolves when the response has begun, or when there will be none. */
  begun: Promise<unknown>
  response: Promise<ClientResponse>
  /** Closes its connection. */
  leave: () => void
}

const SWITCHING_PROTOCOLS = 101

/** Wildcard addresses, to which not every system can connect. */
const LOOPBACK: Record<string, string> = { '0.0.0.0': '127.0.0.1', '::': '::1' }

export class Client {
  readonly #target: { host: string, port: number }
  readonly #http: typeof http | typeof https

  constructor (server: Server) {
    const { address, port } = server.address() as AddressInfo
    this.#target = { host: LOOPBACK[address] ?? address, port }
    this.#http = server instanceof tls.Server ? https : http
  }

  /**
   * Sends a request over a connection of its own.
   * @param connected is called with the port of the client, before the request is sent
   */
  send (path: string, options: RequestOptions = {}, connected = (_port: number) => {}): Sent {
    assertValid(typeof path === 'string' && path.startsWith('/'), 'path of a test request', path, 'a string with a leading slash')
    known('option of a test request', options, ['method', 'headers', 'body'])
    const { method, headers, body } = options
    assertValid(body === undefined || typeof body === 'string' || body instanceof Uint8Array, 'body of a test request', body, 'a string or a Uint8Array')
    // The server is told that the connection may be kept alive, so that it says whether it closes it, but it is used only once.
    const agent = new this.#http.Agent({ keepAlive: true, maxFreeSockets: 0 })
    // Node sends neither a length nor chunks with DELETE, OPTIONS and GET, so that the body would be taken for another request.
    const isFramed = Object.keys(headers ?? {}).some(name => /^(?:content-length|transfer-encoding)$/i.test(name))
    const length = body === undefined || isFramed ? {} : { 'content-length': Buffer.byteLength(body) }
    const request = this.#http.request({
      ...this.#target, path, method, headers: { ...headers, ...length }, agent, rejectUnauthorized: false
    })
    request.on('socket', socket => {
      socket.on('connect', () => { connected(socket.localPort as number) })
    })
    const begun = new Promise<IncomingMessage>((resolve, reject) => {
      // After the response has begun, its reader also gets the error.
      request.on('response', resolve).on('error', reject)
      request.on('upgrade', (message, socket) => {
        socket.destroy()
        resolve(message)
      })
    })
    request.end(body)
    return { begun: begun.catch(() => {}), response: read(begun), leave: () => { request.destroy() } }
  }
}

async function read (begun: Promise<IncomingMessage>): Promise<ClientResponse> {
  const response: ClientResponse = { status: undefined, headers: {}, body: '', error: undefined }
  try {
    const message = await begun
    response.status = message.statusCode
    response.headers = message.headers
    // What follows is of another protocol.
    if (message.statusCode === SWITCHING_PROTOCOLS) return response
    for await (const chunk of message.setEncoding('utf8')) response.body += chunk
  } catch (error) {
    response.error = (error as NodeJS.ErrnoException).code
  }
  return response
}
