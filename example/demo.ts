// `npm run demo`: the example service shuts down while 50 requests are in flight, and each of them is answered. It starts
// the service as a child process, sends it SIGTERM, goes on asking for more, and shows what happens. With --picture, it also draws it:
//
//   npm run demo [-- --picture FILE.svg]
//
// Exits with 1 if anything was lost.

import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { allInFlight, knock, newConnections, probe, sendLoad } from './demo/clients.ts'
import { newRecording } from './demo/recording.ts'
import { Service } from './demo/service.ts'
import { Terminal } from './demo/terminal.ts'
import { drawTimeline } from './demo/timeline.ts'
import { judge } from './demo/verdict.ts'

const SHUTDOWN_TIMEOUT_SECONDS = 10
const SHUTDOWN_DELAY = 1_000
/** How long to look at the running service before the signal. */
const BEFORE = 300
/** The service ends itself within its shutdownTimeout. If it does not, the demo has failed, and must end all the same. */
const TIME_TO_STOP = 1000 * SHUTDOWN_TIMEOUT_SECONDS + 2_000
const TIME_TO_START = 20_000

const { values: { picture } } = parseArgs({ options: { picture: { type: 'string' } } })
const directory = mkdtempSync(join(tmpdir(), 'fastify-graceful-demo-'))
const remains = { database: join(directory, 'notes.sqlite'), metricsFile: join(directory, 'last.prom') }
process.on('exit', () => { rmSync(directory, { recursive: true, force: true }) })
// By way of `exit`, so that the service is ended and the directory goes.
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
if (picture !== undefined) await writeFile(picture, drawTimeline(recording))
process.exitCode = verdict.isGood ? 0 : 1
