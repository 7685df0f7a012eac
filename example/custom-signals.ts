// A service that handles signals itself, with `signals: false`. Use this if the process has more to stop than one
// server, or if a second signal should do something else.
//
//   node --import tsx example/custom-signals.ts

import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
// In your own service: import graceful from 'fastify-graceful'
import graceful from '../index.ts'
import { readPort } from './config.ts'

/**
 * A second signal within this time is a copy of the first one: Ctrl-C reaches all processes of a terminal, and npm and
 * other supervisors also pass it on to their child process.
 */
const COPY = 1_000

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
  } else if (performance.now() - since > COPY) {
    // A second signal. The exit code is 128 plus the signal's number, as in shells.
    app.log.warn(`${signal} again: exiting at once`)
    process.exit(128 + constants.signals[signal])
  }
}

async function stop (signal: string): Promise<void> {
  // It never rejects, and resolves within shutdownTimeout. If a shutdown has already started, by `app.close()` for
  // example, it joins that.
  const report = await app.gracefulShutdown.shutdown(signal)
  // Close here what must outlive the server. Then exit explicitly: a forgotten timer or socket would keep the process
  // alive.
  process.exit(report.exitCode)
}

// `on`, not `once`: without a listener, Node ends the process on the second signal.
process.on('SIGINT', onSignal)
process.on('SIGTERM', onSignal)

await app.listen({ host: '127.0.0.1', port: readPort(process.env, 'PORT', 3000) })
