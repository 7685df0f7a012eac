// A complete service. `npm start`, then:
//
//   curl localhost:3000/api/data
//   curl -H 'content-type: application/json' -d '{"text":"<b>hello</b>"}' 'localhost:3000/api/data?ms=5000'
//   curl localhost:3000/ready
//
// Press Ctrl-C while the second request runs. The environment variables are in config.ts, the plugins in app.ts.

import type { Config } from './config.ts'
import { buildApp } from './app.ts'
import { ConfigError, readConfig } from './config.ts'

/** How many milliseconds to wait until the last lines of the log are written. */
const LOG_FLUSH = 100

const config = configOrExit()
const app = await buildApp(config)
const listener = config.isSocketActivated ? { fd: 3 } : { host: config.host, port: config.port }
// From here on, the plugin listens to signals.
await app.listen(listener)
handleManagerMessages()

/** For a process manager that uses messages, such as PM2 with `wait_ready` and `shutdown_with_message`. */
function handleManagerMessages (): void {
  if (process.send === undefined) return
  process.send('ready')
  process.on('message', message => {
    if (message !== 'shutdown') return
    void app.gracefulShutdown.shutdown('shutdown message').then(({ exitCode }) => {
      // PM2 makes stdout asynchronous: an immediate process.exit() would lose the last lines, with the report.
      process.exitCode = exitCode
      setTimeout(() => process.exit(), LOG_FLUSH)
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
