// Whether memory, listeners, timers and handles stay flat: under mixed load with clients that come and go, and over many instances in one
// process. `npm run soak -- --help` shows the options.

import type { ChildProcess } from 'node:child_process'
import type { Results } from './report.ts'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { startRound, type Ports } from './crowd.ts'
import { faultsOf, leftovers, type Sample } from './measure.ts'
import { drawSoak, summary } from './report.ts'

const LEAKS = ['heap', 'listeners', 'timers']

const HELP = `npm run soak -- [--minutes 30] [--instances N] [--leak KIND] [--write]

  --minutes M    how long the load lasts; 0.5 is a short form
  --instances N  how many instances are created and closed in one process; default: 10,000 for 30 minutes, else in proportion
  --leak KIND    leaks on purpose: ${LEAKS.join(', ')}. Fails if the leak is not found
  --write        writes test/soak/results.json and soak.svg
`

/** How many samples are taken. */
const SAMPLES = 60
/** Milliseconds of a round of load, at least: each kind of client comes several times. */
const SHORTEST_ROUND = 700
/** How long load is on before the instances close, in milliseconds. */
const BEFORE_CLOSE = 500
/** Bytes that a request and an instance may leave. A leaked object takes more. */
const ALLOWED = { load: 16, instances: 128 }

const { minutes, instances, leak, write } = readFlags()
/** What must be killed however this ends. */
const children: ChildProcess[] = []
process.on('exit', () => { for (const child of children) child.kill('SIGKILL') })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const load = await soak()
const many = await createMany()
const results: Results = {
  machine: `Node ${process.version}, ${availableParallelism()} × ${cpus()[0]?.model.trim() ?? 'unknown'}`,
  date: new Date().toISOString().slice(0, 10),
  minutes,
  visits: load.visits,
  before: load.before,
  load: load.samples,
  closed: load.closed,
  instances: many
}
console.log(summary(results))
const found = [
  ...faultsOf(load.samples, ALLOWED.load).map(fault => `Under load: ${fault}`),
  ...leftovers(load.before, load.closed).map(fault => `After close(): ${fault}`),
  ...faultsOf(many, ALLOWED.instances).map(fault => `${instances} instances: ${fault}`)
]
for (const fault of [...found, ...load.wrong]) console.error(fault)
if (write) {
  const path = (name: string) => new URL(name, import.meta.url)
  writeFileSync(path('results.json'), `${JSON.stringify(results)}\n`)
  writeFileSync(path('soak.svg'), drawSoak(results))
}
if (leak !== undefined) console.log(found.length > 0 ? 'The leak was found.' : 'The leak was NOT found.')
process.exit(load.wrong.length > 0 || (leak === undefined) !== (found.length === 0) ? 1 : 0)

async function soak () {
  const service = start('service.ts', {})
  const [[before, http1, http2]] = await once(service, 'message') as [[Sample, number, number]]
  const ports: Ports = { http1, http2 }
  const samples: Sample[] = []
  const wrong: string[] = []
  let visits = 0
  const until = performance.now() + minutes * 60_000
  const round = Math.max(SHORTEST_ROUND, minutes * 60_000 / SAMPLES)
  while (performance.now() < until) {
    const current = startRound(ports, AbortSignal.timeout(round))
    await current.done
    visits += current.visits
    wrong.push(...current.wrong)
    samples.push(await ask(service, 'measure'))
  }
  // Then a drain under load, in which clients may be refused.
  const over = new AbortController()
  const last = startRound(ports, over.signal)
  await sleep(BEFORE_CLOSE)
  const closed = await ask(service, 'close')
  over.abort()
  await last.done
  service.kill()
  return { before, samples, wrong, visits, closed }
}

async function createMany (): Promise<Sample[]> {
  const samples: Sample[] = []
  const each = Math.max(1, Math.floor(instances / SAMPLES))
  const program = start('instances.ts', { COUNT: String(instances), EACH: String(each) })
  program.on('message', sample => { samples.push(sample as Sample) })
  await once(program, 'disconnect')
  program.kill()
  return samples
}

function start (name: string, env: Record<string, string>): ChildProcess {
  const child = fork(fileURLToPath(new URL(name, import.meta.url)), {
    execArgv: ['--expose-gc', '--import', 'tsx'], env: { ...process.env, ...env, LEAK: leak ?? '' }
  })
  children.push(child)
  return child
}

async function ask (service: ChildProcess, question: 'measure' | 'close'): Promise<Sample> {
  service.send(question)
  const [sample] = await once(service, 'message') as [Sample]
  return sample
}

function readFlags () {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: 'string', default: '30' },
        instances: { type: 'string' },
        leak: { type: 'string' },
        write: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false }
      }
    })
    if (values.help) {
      console.log(HELP)
      return process.exit(0)
    }
    const time = Number(values.minutes)
    const count = Number(values.instances ?? Math.ceil(10_000 * time / 30))
    if (!(time > 0) || !(count >= 1)) throw new Error('--minutes and --instances must be numbers above 0')
    if (values.leak !== undefined && !LEAKS.includes(values.leak)) throw new Error(`--leak must be one of ${LEAKS.join(', ')}`)
    return { minutes: time, instances: count, leak: values.leak, write: values.write }
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`)
    return process.exit(1)
  }
}
