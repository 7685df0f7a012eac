// The load balancers: real ones, with the configurations of the example, and a TCP proxy that knows nothing about HTTP.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/**
 * How many milliseconds after SIGTERM a balancer without checks is told, because endpoint removal takes time. Usually it is fast, but
 * a delay must be long enough for the slowest one; in these runs, that is one restart in three.
 */
export const REMOVAL = { usual: 200, longest: 2_000, slowOneIn: 3 }
/** The checks of HAProxy and Caddy, as in their configurations. On a busy machine, a check may take until its timeout. */
export const CHECKS = { inter: 200, fall: 1, timeout: 1_000 }
/** Milliseconds until an instance gets no more requests, at most. */
const BY_CHECKS = CHECKS.inter * CHECKS.fall + CHECKS.timeout
/** The fixed shutdownDelay is this much longer than the removal takes at most. */
const MARGIN = 1_000
/** The adaptive one ends after this many milliseconds without a request, and after the fixed one at the latest. */
export const QUIET = 300
const POLL_INTERVAL = 20
/** Milliseconds until the run fails because a balancer did not do what it was waited for. */
const PATIENCE = 20_000

export interface Balancer {
  /** Called when an instance has been told to stop; `removal` is how long it takes until balancers without checks are told. */
  leaves (port: number, removal: number): Promise<void>
  /** Called when an instance is back; resolves once HAProxy or Caddy has noticed, or the others have been told. */
  returns (port: number): Promise<void>
  /** How often a check has timed out, so that it took an instance that was running for down. */
  lateChecks? (): number
  /** Kills it. */
  kill (): void
}

/** @param started gets each program as soon as it exists, so that it is killed even if it does not start properly */
type Start = (directory: string, ports: readonly number[], port: number, started: Array<{ kill: () => void }>) => Promise<Balancer>

const startHaproxy = (proto: 'h1' | 'h2'): Start => async (directory, ports, port, started) => {
  const stats = join(directory, 'haproxy.sock')
  const [one, two, three] = ports.map(String) as [string, string, string]
  const program = new Program('haproxy', ['-db', '-f', example('haproxy/haproxy.cfg')], {
    PORT: String(port), ONE: one, TWO: two, THREE: three, STATS: stats, PROTO: proto
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
  const lateChecks = () => program.count(/is DOWN, reason: \S+ timeout/g)
  return { leaves: async () => {}, returns, lateChecks, kill: () => { program.kill() } }
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
    leaves: async (instance, removal) => {
      await sleep(removal)
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

const startCaddy: Start = async (directory, ports, port, started) => {
  const [one, two, three] = ports.map(String) as [string, string, string]
  const home = join(directory, 'caddy')
  const program = new Program('caddy', ['run', '--config', example('caddy/Caddyfile')], {
    PORT: String(port), ONE: one, TWO: two, THREE: three, HOME: home, XDG_CONFIG_HOME: home, XDG_DATA_HOME: home
  })
  started.push(program)
  await program.until(async () => await listens(port))
  /** How often the log says so: it takes an instance for healthy until the first check. */
  const ups = (instance: number) => program.count(new RegExp(`"host is up","host":"127\\.0\\.0\\.1:${instance}"`, 'g'))
  const before = new Map(ports.map(instance => [instance, 0]))
  return {
    // Its checks notice when an instance leaves.
    leaves: async instance => { before.set(instance, ups(instance)) },
    returns: async instance => { await program.until(async () => ups(instance) > (before.get(instance) ?? 0)) },
    lateChecks: () => program.count(/Client\.Timeout exceeded/g),
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
    leaves: async (instance, removal) => {
      await sleep(removal)
      present = present.filter(one => one !== instance)
    },
    returns: async instance => { present.push(instance) },
    kill
  }
}

export interface Kind {
  readonly start: Start
  /** Whether it speaks HTTP/2 with the instances. */
  readonly isHttp2: boolean
  /** Whether clients may keep their connections: nginx closes idle ones when it reloads, even with requests on their way. */
  readonly keepsClients: boolean
  /** Whether checks tell it that an instance stops. */
  readonly hasChecks: boolean
  /** The tested fixed shutdownDelay, in milliseconds: it covers the slowest removal. */
  readonly delay: number
}

const byChecks = { isHttp2: false, keepsClients: true, hasChecks: true, delay: BY_CHECKS + MARGIN }
const byRemoval = { isHttp2: false, keepsClients: true, hasChecks: false, delay: REMOVAL.longest + MARGIN }

/** `direct` passes each connection to the next instance, as kube-proxy does: an open connection stays with its instance. */
export const BALANCERS = {
  haproxy: { ...byChecks, start: startHaproxy('h1') },
  'haproxy-h2': { ...byChecks, start: startHaproxy('h2'), isHttp2: true },
  caddy: { ...byChecks, start: startCaddy },
  nginx: { ...byRemoval, start: startNginx, keepsClients: false },
  direct: { ...byRemoval, start: startDirect }
} as const satisfies Record<string, Kind>
export type BalancerName = keyof typeof BALANCERS

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
      this.#failure = error.code === 'ENOENT' ? new Error(`${name} is not installed: apt-get install haproxy nginx caddy`) : error
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

  /** How often it has written this to stderr. */
  count (what: RegExp): number {
    return this.#output.match(what)?.length ?? 0
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
