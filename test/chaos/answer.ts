// What a client has read.

export interface Answer {
  /** The client's index in the scenario. */
  client: number
  url: string
  /** The connection, numbered by client, and how many requests it has sent before this one. */
  connection: number
  before: number
  /** When the last byte was given to the socket; Infinity if that has not happened. */
  sentAt: number
  /** When the first and the last byte of the answer were read, or the connection closed. */
  startedAt: number
  endedAt: number
  /**
   * - `whole`: all of the answer
   * - `part`: the connection closed, or the stream was reset, after a part of it
   * - `none`: it closed without an answer
   * - `unconnected`: there was no connection
   * - `left`: the client has disconnected, or does not want an answer
   */
  outcome: 'whole' | 'part' | 'none' | 'unconnected' | 'left'
  status?: number
  body?: string
  /**
   * What Node's HTTP/2 client had received after that, but not passed on to a slow reader when the server closed the connection. The
   * client then destroys the stream, without an error.
   */
  unread?: number
  /** Whether it says `Connection: close`. */
  isLast?: boolean
  error?: string
}

/** The code of an error of Fastify. */
export function codeOf ({ body = '' }: Answer): string | undefined {
  return /"code":"([^"]+)"/.exec(body)?.[1]
}
