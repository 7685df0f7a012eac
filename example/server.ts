// A complete service. `npm start`, then:
//
//   curl localhost:3000/api/data
//   curl -H 'content-type: application/json' -d '{"text":"<b>hello</b>"}' 'localhost:3000/api/data?ms=5000'
//   curl localhost:3000/ready
//
// and Ctrl-C while the second one runs. What may be set in the environment: see config.ts; what the service is
// made of: see app.ts.

import type { Config } from './config.ts'
import { buildApp } from './app.ts'
import { ConfigError, readConfig } from './config.ts'

/** Milliseconds for the log's last lines to be written. */
const LAST_WORDS = 100

const config = configOrExit()
const app = await buildApp(config)
// From here on the plugin listens to signals; nothing else is to be done.
await app.listen({ host: config.host, port: config.port })
speakWithManager()

/** A process manager that speaks by messages, as PM2 does with `wait_ready` and `shutdown_with_message`. */
function speakWithManager (): void {
  if (process.send === undefined) return
  process.send('ready')
  process.on('message', message => {
    if (message !== 'shutdown') return
    void app.gracefulShutdown.shutdown('shutdown message').then(({ exitCode }) => {
      // PM2 has stdout write later: process.exit() at once would cut off the last lines, the report's.
      process.exitCode = exitCode
      setTimeout(() => process.exit(), LAST_WORDS)
    })
  })
}

function configOrExit (): Config {
  try {
    return readConfig(process.env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    console.error(`Bad configuration: ${error.message}`)
    return process.exit(1)
  }
}
