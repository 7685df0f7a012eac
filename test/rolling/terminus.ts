// @godaddy/terminus, as in its README: the delay in `beforeShutdown`, while its readiness probe fails; `useExit0`, as it recommends
// for Kubernetes.

import type { Server } from 'node:http'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { app, config, listen, logDelay } from './service.ts'

interface Terminus {
  createTerminus (server: Server, options: {
    healthChecks: Record<string, () => Promise<void>>
    timeout: number
    useExit0: boolean
    beforeShutdown: () => Promise<void>
    onSignal: () => Promise<void>
  }): void
}

// From the packages of the comparison.
const { createTerminus } = createRequire(`${process.env['MODULES']}/`)('@godaddy/terminus') as Terminus

await app.ready()
createTerminus(app.server, {
  healthChecks: { '/ready': async () => {} },
  timeout: config.drainTimeout,
  useExit0: true,
  beforeShutdown: async () => {
    const since = performance.now()
    await sleep(config.shutdownDelay)
    logDelay(since)
  },
  onSignal: async () => { await app.close() }
})
await listen()
