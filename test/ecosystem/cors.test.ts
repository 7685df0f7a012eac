// @fastify/cors: what a browser may read of an answer from another origin.

import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { createServer } from 'node:http'
import t, { type Test } from 'tap'
import { launchBrowser } from '../browser.ts'
import { start, type Service } from './service.ts'

const browser = await launchBrowser()
t.teardown(async () => { await browser.close() })

for (const [order, refusal] of [
  ['before', { status: 503, retryAfter: '1', body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ }], ['after', { error: /Failed to fetch/ }]
] as const) {
  t.test(`if it is registered ${order} the plugin, a browser can read the responses, and ${order === 'before' ? 'also' : 'not'} the 503s`, async t => {
    const origin = await serveEmptyPage(t)
    const service = await start(t, 'cors', { ORIGIN: origin, ORDER: order })
    const read = await readerAt(origin, service)
    const held = read('/held')
    await service.holds('/held')
    await service.sigterm()
    // Not the same path: a browser waits for the first response, because that may be cached.
    const refused = await read('/orders')
    await service.release()

    t.match(refused, refusal)
    t.match(await held, { status: 200, body: /^held$/ })
    t.match(await service.ended(), { code: 0, report: { completed: 1, refused: 1, cut: { length: 0 } }, complaints: { length: 0 } })
  })
}

/** Returns the origin of the page. */
async function serveEmptyPage (t: Test): Promise<string> {
  const server = createServer((_request, response) => { response.setHeader('content-type', 'text/html').end() }).listen(0, '127.0.0.1')
  t.teardown(() => { server.close().closeAllConnections() })
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Returns a function that requests a path of the service in a page of the origin, and tells what the page can read. */
async function readerAt (origin: string, { port }: Service) {
  const page = await browser.newPage()
  await page.goto(origin)
  return async (path: string) => await page.evaluate(async url => {
    try {
      const response = await fetch(url)
      return { status: response.status, retryAfter: response.headers.get('retry-after'), body: await response.text() }
    } catch (error) {
      return { error: String(error) }
    }
  }, `http://127.0.0.1:${port}${path}`)
}
