// Hostile clients: a service is attacked before, through and after its shutdown, in many ways, while other clients behave.
// `npm run test:hostile -- --help` shows the options. Needs Linux.
//
// Exits with 1 if a bound is broken: see `faultsOf()` in report.ts.

import type { ChildProcess } from 'node:child_process'
import type { Attack } from './attacks.ts'
import type { Order } from './attacker.ts'
import type { Counts } from './crowd.ts'
import type { Result, Run } from './report.ts'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createCredentials } from '../credentials.ts'
import { buildPlugin } from '../packages.ts'
import { readFlags } from '../flags.ts'
import { ATTACKS } from './attacks.ts'
import { HonestClients } from './honest.ts'
import { faultsOf, table, toResult, withTable } from './report.ts'
import { OPTIONS, Target, TYPESCRIPT } from './target.ts'

/** Milliseconds of the attack before SIGTERM, and after the exit. */
const BEFORE = 2_000
const BEFORE_SHORT = 300
const AFTER = 150
/** Milliseconds after which an attack that has not opened its connections goes on with those that it has. */
const PATIENCE = 15_000
/** File descriptors that a process needs besides its connections. */
const OTHER_FILES = 500
const WARM_UP = 200
const NODE = Number.parseInt(process.versions.node)

const HELP = `npm run test:hostile -- [--short] [--only NAME] [--write]

  --short      fewer connections, a shorter time before SIGTERM, and not also with bare Fastify
  --only NAME  only this attack: ${Object.keys(ATTACKS).join(', ')}
  --write      writes test/hostile/results.json and the table in docs/security.md anew; what this run has not measured stays
`

const { values } = readFlags(HELP, {
  options: {
    short: { type: 'boolean', default: false },
    only: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false }
  }
})
const names = Object.keys(ATTACKS).filter(name => values.only === undefined || name === values.only)
if (values.help || names.length === 0 || (values.write && values.short)) {
  console.log(HELP)
  process.exit(values.help ? 0 : 1)
}

const home = mkdtempSync(join(tmpdir(), 'fastify-graceful-hostile-'))
/** What must be killed however this ends. */
const started = new Set<{ kill: () => unknown }>()
process.on('exit', () => {
  for (const program of started) program.kill()
  rmSync(home, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })

const { key, cert } = await createCredentials()
writeFileSync(join(home, 'key.pem'), key)
writeFileSync(join(home, 'cert.pem'), cert)
const plugin = buildPlugin()
const mostFiles = Number(/^Max open files\s+\d+\s+(\d+)/m.exec(await readFile('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)

const lag = monitorEventLoopDelay()
lag.enable()
const results: Result[] = []
let isBroken = false
for (const name of names) {
  const attack = ATTACKS[name] as Attack
  if (NODE < (attack.sinceNode ?? 0)) {
    console.log(`${name}: not on Node ${NODE}, which fails by itself`)
    continue
  }
  console.log(`${name}: clients ${attack.what}…`)
  const run = await shutDown(name)
  const result = toResult(name, attack, run)
  if (!values.short) result.bare = await attackBare(name, run.exit.time)
  results.push(result)
  console.log(`  ${JSON.stringify({ ...result, seen: run.seen, answers: run.counts.answers, errors: run.counts.errors })}`)
  for (const fault of faultsOf(attack, run)) {
    isBroken = true
    console.error(`  ${name}: ${fault}`)
  }
}
console.log(`\n${table(results)}\n`)
console.log(`Load average ${loadavg()[0]?.toFixed(1)}; the event loop of the clients that behave was up to ${Math.round(lag.max / 1e6)}ms late`)
if (values.write) await write(results)
process.exit(isBroken ? 1 : 0)

interface Attacked {
  target: Target
  clients: HonestClients
  attacker: ChildProcess
  /** The peak memory before the attack, in MiB. */
  idle: number
}

/** Starts the service, clients that behave, and an attack; resolves when its connections are open. */
async function startAttack (name: string, path: string): Promise<Attacked> {
  const { protocol, size: usual, short = usual, options } = ATTACKS[name] as Attack
  const attacker = fork(fileURLToPath(new URL('attacker.ts', import.meta.url)), [name], { execArgv: TYPESCRIPT })
  started.add(attacker)
  const target = await Target.start(protocol, path, home, options)
  started.add(target)
  const clients = new HonestClients(target.port, protocol)
  await sleep(WARM_UP)
  const idle = target.mark()
  const order: Order = { port: target.port, size: Math.min(values.short ? short : usual, mostFiles - OTHER_FILES) }
  const isOn = once(attacker, 'message')
  attacker.send(order)
  await Promise.race([isOn, sleep(PATIENCE)])
  return { target, clients, attacker, idle }
}

async function stopAttack (attacker: ChildProcess): Promise<Counts> {
  const counted = once(attacker, 'message') as Promise<[Counts]>
  const exited = once(attacker, 'exit')
  attacker.send('stop')
  const [counts] = await counted
  await exited
  started.delete(attacker)
  return counts
}

/** Attacks the service, and shuts it down meanwhile. */
async function shutDown (name: string): Promise<Run> {
  const { target, clients, attacker, idle } = await startAttack(name, plugin)
  await sleep(values.short ? BEFORE_SHORT : BEFORE)
  const running = target.mark()
  const exit = await target.terminate(OPTIONS.shutdownTimeout * 2)
  started.delete(target)
  await sleep(AFTER)
  const counts = await stopAttack(attacker)
  await clients.stop()
  return {
    exit, report: target.report, stderr: target.stderr, seen: target.seen, counts, honest: clients.answers,
    memory: { idle, running, shutdown: target.peak }, waited: target.waited
  }
}

/** Attacks bare Fastify for as long. */
async function attackBare (name: string, time: number): Promise<NonNullable<Result['bare']>> {
  const { target, clients, attacker, idle } = await startAttack(name, '')
  await sleep(BEFORE + time)
  const peak = target.mark()
  await stopAttack(attacker)
  await clients.stop()
  await target.terminate(PATIENCE)
  started.delete(target)
  return { memory: Math.round(peak - idle), late: target.seen.late ?? NaN }
}

async function write (measured: Result[]): Promise<void> {
  const root = new URL('../..', import.meta.url)
  const stored = JSON.parse(await readFile(new URL('test/hostile/results.json', root), 'utf8')) as Result[]
  const written = Object.keys(ATTACKS)
    .map(name => [...measured, ...stored].find(({ attack }) => attack === name))
    .filter(result => result !== undefined)
  const page = new URL('docs/security.md', root)
  await writeFile(new URL('test/hostile/results.json', root), `[\n${written.map(result => JSON.stringify(result)).join(',\n')}\n]\n`)
  await writeFile(page, withTable(await readFile(page, 'utf8'), written))
}
