// `npm run demo`: the example service shuts down while 50 requests are in flight, and none of them is lost. The demo
// starts the service as a child process, sends it SIGTERM, keeps sending requests, shows what happens, and draws it:
//
//   npm run demo [-- picture.svg]      default: example/timeline.svg
//
// The exit code is 1 if a request was lost or the service did not shut down cleanly.

import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { allInFlight, knock, newConnections, probe, sendLoad } from './demo/clients.ts'
import { newRecording } from './demo/recording.ts'
import { Service } from './demo/service.ts'
import { Terminal } from './demo/terminal.ts'
import { drawTimeline } from './demo/timeline.ts'
import { judge } from './demo/verdict.ts'

const SHUTDOWN_TIMEOUT_SECONDS = 10
const SHUTDOWN_DELAY = 500
/** How long the service runs under load before the signal. */
const BEFORE = 200
/** The service should exit within its shutdownTimeout. If it does not, the demo kills it, and has failed. */
const TIME_TO_STOP = 1000 * SHUTDOWN_TIMEOUT_SECONDS + 2_000
const TIME_TO_START = 20_000

const picture = process.argv[2] ?? fileURLToPath(new URL('timeline.svg', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'fastify-graceful-demo-'))
const remains = { database: join(directory, 'notes.sqlite'), metricsFile: join(directory, 'last.prom') }
process.on('exit', () => { rmSync(directory, { recursive: true, force: true }) })
// Through 'exit', so that the service is killed and the directory is removed.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const recording = newRecording()
const terminal = new Terminal(recording)

terminal.heading('Starting the service…')
const service = new Service({
  HOST: '127.0.0.1',
  PORT: '0',
  SHUTDOWN_TIMEOUT: String(SHUTDOWN_TIMEOUT_SECONDS),
  SHUTDOWN_DELAY: String(SHUTDOWN_DELAY),
  DATABASE: remains.database,
  METRICS_FILE: remains.metricsFile
}, recording, line => { terminal.note(line) })
const end = () => {
  recording.killed = true
  service.kill()
}
const starting = setTimeout(end, TIME_TO_START)
const url = await service.url
clearTimeout(starting)
terminal.note(`Listening at ${url}`)

const gone = new AbortController()
const dispatcher = newConnections()
const asking = { signal: gone.signal, dispatcher }

terminal.start()
recording.phases.push({ phase: 'running', at: Date.now() })
const probed = probe(url, recording, asking)
const { ended } = await sendLoad(url, recording)
recording.inFlight = await allInFlight(url, recording, dispatcher)
const knocked = knock(url, recording, asking)
await sleep(BEFORE)

recording.signalAt = Date.now()
service.signal('SIGTERM')
const stopping = setTimeout(end, TIME_TO_STOP)
await service.gone
clearTimeout(stopping)
gone.abort()
await Promise.all([ended, probed, knocked])
terminal.stop()

const verdict = await judge(recording, remains)
terminal.table(verdict)
await writeFile(picture, drawTimeline(recording))
terminal.note(`Picture: ${picture}`)
process.exitCode = verdict.isGood ? 0 : 1
