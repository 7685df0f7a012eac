// A server behind a proxy, which echoes what it received. It starts the response at once and ends it on demand.

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { Deferred, eventually } from '../helpers.ts'

export interface Upstream {
  url: string
  /** Waits until this number of requests has arrived. */
  holds: (count: number) => Promise<void>
  release: () => void
}

export async function listenUpstream (t: Test): Promise<Upstream> {
  const released = new Deferred()
  let held = 0
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.write('first ')
    held++
    await released.promise
    let text = ''
    for await (const chunk of request) text += String(chunk)
    response.end(`last ${text}`)
  }
  const server = createServer((request, response) => { void answer(request, response) })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    holds: async count => { await eventually(() => held >= count) },
    release: () => { released.resolve() }
  }
}
