// `npm run bench:reconnects`: how many clients reconnect at the same time when an instance with many WebSockets shuts down, without
// and with `spread`. The clients connect to a second instance as soon as the first one tells them to go. `-- --help` shows the options.

import type { ChildProcess } from 'node:child_process'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { median } from '../numbers.ts'
import { drawReconnects, STEP, table, type Results, type Run } from './report.ts'

const HELP = `npm run bench:reconnects -- [--clients 5000] [--write]

  --clients N  how many clients, a multiple of 200
  --write      writes bench/reconnects/results.json and reconnects.svg anew
`

const SPREADS = [0, 5_000]
/** Processes of clients. */
const CROWDS = 2

const { values: { clients, write, help } } = parseArgs({
  options: { clients: { type: 'string', default: '5000' }, write: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } }
})
if (help) {
  console.log(HELP)
  process.exit(0)
}

const started: ChildProcess[] = []
process.on('exit', () => { for (const child of started) child.kill('SIGKILL') })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

/** Starts a program, and resolves to it and its first message. */
async function start<T> (name: string, env: Record<string, string>): Promise<[child: ChildProcess, first: T]> {
  const child = fork(new URL(`${name}.ts`, import.meta.url), { env: { ...process.env, ...env } })
  started.push(child)
  return [child, await next<T>(child)]
}

async function next<T> (child: ChildProcess): Promise<T> {
  const ended = once(child, 'exit').then(() => { throw new Error('A process has ended early') })
  const [message] = await Promise.race([once(child, 'message') as Promise<[T]>, ended])
  return message
}

async function measure (spread: number): Promise<Run> {
  const [first, from] = await start<number>('service', { SPREAD: String(spread) })
  const [second, to] = await start<number>('service', { SPREAD: '0' })
  const env = { FROM: String(from), TO: String(to), COUNT: String(Number(clients) / CROWDS) }
  const crowds = await Promise.all(Array.from({ length: CROWDS }, async () => await start('clients', env)))
  const back = Promise.all(crowds.map(async ([child]) => await next<number[]>(child)))
  const gone = once(first, 'exit')
  const begin = Date.now()
  first.kill('SIGTERM')
  const waits = (await back).flat()
  const [code] = await gone
  if (code !== 0) throw new Error(`The instance has ended with ${code}`)
  second.send('opened')
  const opened = await next<number[]>(second)
  for (const child of [second, ...crowds.map(([crowd]) => crowd)]) child.kill('SIGKILL')
  const steps = opened.map(time => Math.floor((time - begin) / STEP))
  const reconnects = Array.from({ length: Math.max(...steps) + 1 }, (_, step) => steps.filter(one => one === step).length)
  return { spread, clients: opened.length, reconnects, wait: { median: median(waits), longest: Math.max(...waits) } }
}

const runs: Run[] = []
for (const spread of SPREADS) {
  console.error(`spread: ${spread}…`)
  runs.push(await measure(spread))
}
const results: Results = {
  machine: `${cpus()[0]?.model.trim()}, ${availableParallelism()} cores; Node.js ${process.versions.node}`,
  date: new Date().toISOString().slice(0, 10),
  runs
}
console.log(table(results))
if (write) {
  writeFileSync(new URL('results.json', import.meta.url), `${JSON.stringify(results, null, 2)}\n`)
  writeFileSync(new URL('reconnects.svg', import.meta.url), drawReconnects(results))
}
