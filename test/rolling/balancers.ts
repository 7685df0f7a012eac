// The load balancers: real ones, with the configurations of the example, and a TCP proxy that knows nothing about HTTP.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** Milliseconds after SIGTERM until balancers without checks are told, because endpoint removal takes time. */
export const REMOVAL_DELAY = 200
/** HAProxy's checks, as in its configuration. On a busy machine, a check may take until its timeout. */
export const CHECKS = { inter: 200, fall: 1, timeout: 1_000 }
/** The tested shutdownDelay: longer than any of the balancers takes to remove an instance. */
export const DELAY = 1_500
const POLL_INTERVAL = 20
/** Milliseconds until the run fails because a balancer did not do what it was waited for. */
const PATIENCE = 20_000

export interface Balancer {
  readonly port: number
  /** Whether clients may keep their connections: nginx closes idle ones when it reloads, even with requests on their way. */
  readonly keepsClients: boolean
  /** Called when an instance has been told to stop. */
  leaves (port: number): Promise<void>
  /** Called when an instance is back; resolves once HAProxy has noticed, or the others have been told. */
  returns (port: number): Promise<void>
  /** Kills it. */
  kill (): void
}

/** `direct` passes each connection to the next instance, as kube-proxy does: an open connection stays with its instance. */
export const BALANCERS = ['haproxy', 'nginx', 'direct'] as const
export type BalancerName = typeof BALANCERS[number]

/** @param started gets each program as soon as it exists, so that it is killed even if it does not start properly */
type Start = (directory: string, ports: readonly number[], port: number, started: Array<{ kill: () => void }>) => Promise<Balancer>

const startHaproxy: Start = async (directory, ports, port, started) => {
  const stats = join(directory, 'haproxy.sock')
  const [one, two, three] = ports.map(String) as [string, string, string]
  const program = new Program('haproxy', ['-db', '-f', example('haproxy/haproxy.cfg')], {
    PORT: String(port), ONE: one, TWO: two, THREE: three, STATS: stats
  })
  started.push(program)
  const names = ['one', 'two', 'three']
  const returns = async (instance: number) => {
    const isUp = new RegExp(`^service,${names[ports.indexOf(instance)]},.*,UP,`, 'm')
    await program.until(async () => isUp.test(await askStats(stats)))
  }
  await program.until(async () => await listens(port))
  for (const instance of ports) await returns(instance)
  // Its checks notice when an instance leaves.
  return { port, keepsClients: true, leaves: async () => {}, returns, kill: () => { program.kill() } }
}

/** Empty until the socket exists, which is created later than the port. */
async function askStats (path: string): Promise<string> {
  let text = ''
  try {
    const socket = connect(path)
    socket.end('show stat\n')
    for await (const chunk of socket as AsyncIterable<Buffer>) text += chunk.toString()
  } catch {
    return ''
  }
  return text
}

const startNginx: Start = async (directory, ports, port, started) => {
  const present = new Set(ports)
  const writeUpstream = () => {
    const servers = [...present].map(instance => `  server 127.0.0.1:${instance} max_fails=0;\n`).join('')
    writeFileSync(join(directory, 'upstream.conf'), `upstream service {\n${servers}  keepalive 32;\n}\n`)
  }
  mkdirSync(join(directory, 'tmp'))
  writeUpstream()
  const config = join(directory, 'nginx.conf')
  writeFileSync(config, readFileSync(example('nginx/nginx.conf'), 'utf8').replace('127.0.0.1:8080', `127.0.0.1:${port}`))
  // Its workers end with it at SIGTERM; SIGKILL would orphan them.
  const program = new Program('nginx', ['-p', directory, '-c', config, '-e', join(directory, 'error.log')], {}, 'SIGTERM')
  started.push(program)
  await program.until(async () => await listens(port))
  const reload = () => {
    writeUpstream()
    program.signal('SIGHUP')
  }
  return {
    port,
    keepsClients: false,
    leaves: async instance => {
      await sleep(REMOVAL_DELAY)
      present.delete(instance)
      reload()
    },
    returns: async instance => {
      present.add(instance)
      reload()
    },
    kill: () => { program.kill() }
  }
}

const startDirect: Start = async (_directory, ports, port, started) => {
  let present = [...ports]
  const server = createServer({ allowHalfOpen: true }, client => {
    const next = present.shift() as number
    present.push(next)
    const instance = connect({ port: next, host: '127.0.0.1', allowHalfOpen: true })
    client.pipe(instance).pipe(client)
    for (const [one, other] of [[client, instance], [instance, client]] as const) {
      one.on('error', () => { other.resetAndDestroy() })
    }
  })
  server.listen(port, '127.0.0.1')
  const kill = () => { server.close() }
  started.push({ kill })
  await once(server, 'listening')
  return {
    port,
    keepsClients: true,
    leaves: async instance => {
      await sleep(REMOVAL_DELAY)
      present = present.filter(one => one !== instance)
    },
    returns: async instance => { present.push(instance) },
    kill
  }
}

export const START: Record<BalancerName, Start> = { haproxy: startHaproxy, nginx: startNginx, direct: startDirect }

/** A program of another project, whose stderr is shown if it fails. */
class Program {
  readonly #name: string
  readonly #child: ChildProcess
  readonly #killedWith: NodeJS.Signals
  #output = ''
  #failure: Error | undefined

  constructor (name: string, args: readonly string[], env: Record<string, string>, killedWith: NodeJS.Signals = 'SIGKILL') {
    this.#name = name
    this.#killedWith = killedWith
    this.#child = spawn(name, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child.stderr?.on('data', (chunk: Buffer) => { this.#output += chunk.toString() })
    this.#child.on('error', (error: NodeJS.ErrnoException) => {
      this.#failure = error.code === 'ENOENT' ? new Error(`${name} is not installed: apt-get install haproxy nginx`) : error
    })
    this.#child.on('close', code => { this.#failure ??= new Error(`${name} has exited with ${code}:\n${this.#output}`) })
  }

  /** Waits for a condition; rejects if the program exits, or after `PATIENCE`. */
  async until (condition: () => Promise<boolean>): Promise<void> {
    const end = performance.now() + PATIENCE
    while (!await condition()) {
      if (this.#failure !== undefined) throw this.#failure
      if (performance.now() > end) throw new Error(`${this.#name} is not ready:\n${this.#output}`)
      await sleep(POLL_INTERVAL)
    }
  }

  signal (name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  kill (): void {
    this.#child.kill(this.#killedWith)
  }
}

function example (path: string): string {
  return fileURLToPath(new URL(`../../example/${path}`, import.meta.url))
}

export async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

async function listens (port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
