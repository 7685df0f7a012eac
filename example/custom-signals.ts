// A service that handles signals itself: `signals: false`, and the rest is up to it. For a process that has more to
// end than one server, say, or another idea of a second signal.
//
//   node --import tsx example/custom-signals.ts

import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
// In your own service: import graceful from 'fastify-graceful'
import graceful from '../index.ts'
import { readPort } from './config.ts'

/**
 * A second signal within this time is taken for the first one, come twice: Ctrl-C reaches all processes of a terminal,
 * and npm and other supervisors pass on to their child what it has got already.
 */
const ECHO = 1_000

const app = Fastify({ logger: true })
await app.register(graceful, { signals: false, shutdownTimeout: 10_000, drainTimeout: 8_000 })

app.get('/', async () => {
  await sleep(3_000)
  return { hello: 'world' }
})

let since: number | undefined

function onSignal (signal: 'SIGINT' | 'SIGTERM'): void {
  if (since === undefined) {
    since = performance.now()
    void stop(signal)
  } else if (performance.now() - since > ECHO) {
    // Somebody means it. 128 and the signal's number, as shells have it.
    app.log.warn(`${signal} again: exiting at once`)
    process.exit(128 + constants.signals[signal])
  }
}

async function stop (signal: string): Promise<void> {
  // It never rejects, and is done within shutdownTimeout. A shutdown that started before (an `app.close()`
  // elsewhere) is joined.
  const report = await app.gracefulShutdown.shutdown(signal)
  // Here is the place for what must outlive the server. Then out, even where something forgotten, a timer or a
  // socket, would keep the process alive.
  process.exit(report.exitCode)
}

// `on`, not `once`: without a listener, Node would end the process on the second signal, and without a word.
process.on('SIGINT', onSignal)
process.on('SIGTERM', onSignal)

await app.listen({ host: '127.0.0.1', port: readPort(process.env, 'PORT', 3000) })
