// The balancers, real ones, with the configurations of the example.

import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** Milliseconds after SIGTERM at which somebody has told nginx: endpoint removal comes late. */
export const TOLD_LATE = 200
/** HAProxy's checks, as in its configuration. */
export const CHECKS = { inter: 200, fall: 1 }
const LOOK_EVERY = 20

export interface Balancer {
  readonly port: number
  /** Whether clients may keep their connections: nginx closes idle ones as it reloads, requests on their way or not. */
  readonly keepsClients: boolean
  /** An instance has been told to stop. */
  leaves (port: number): Promise<void>
  /** An instance is back; resolves once it is sent requests. */
  returns (port: number): Promise<void>
  /** Ends it by force. */
  kill (): void
}

export const BALANCERS = ['haproxy', 'nginx'] as const
export type BalancerName = typeof BALANCERS[number]

export async function startBalancer (name: BalancerName, directory: string, ports: readonly number[]): Promise<Balancer> {
  const balancer = name === 'haproxy' ? startHaproxy(directory, ports, await freePort()) : startNginx(directory, ports, await freePort())
  while (!await listens(balancer.port)) await sleep(LOOK_EVERY)
  for (const port of ports) await balancer.returns(port)
  return balancer
}

function startHaproxy (directory: string, ports: readonly number[], port: number): Balancer {
  const stats = join(directory, 'haproxy.sock')
  const [one, two, three] = ports.map(String) as [string, string, string]
  const child = run('haproxy', ['-db', '-q', '-f', example('haproxy/haproxy.cfg')], {
    PORT: String(port), ONE: one, TWO: two, THREE: three, STATS: stats
  })
  const names = ['one', 'two', 'three']
  return {
    port,
    keepsClients: true,
    // Its checks find out.
    leaves: async () => {},
    returns: async instance => {
      const isUp = new RegExp(`^service,${names[ports.indexOf(instance)]},.*,UP,`, 'm')
      while (!isUp.test(await askStats(stats))) await sleep(LOOK_EVERY)
    },
    kill: () => { child.kill('SIGKILL') }
  }
}

async function askStats (path: string): Promise<string> {
  const socket = connect(path)
  socket.end('show stat\n')
  let text = ''
  for await (const chunk of socket as AsyncIterable<Buffer>) text += chunk.toString()
  return text
}

function startNginx (directory: string, ports: readonly number[], port: number): Balancer {
  const present = new Set(ports)
  const writeUpstream = () => {
    const servers = [...present].map(instance => `  server 127.0.0.1:${instance} max_fails=0;\n`).join('')
    writeFileSync(join(directory, 'upstream.conf'), `upstream service {\n${servers}  keepalive 32;\n}\n`)
  }
  mkdirSync(join(directory, 'tmp'))
  writeUpstream()
  const config = join(directory, 'nginx.conf')
  writeFileSync(config, readFileSync(example('nginx/nginx.conf'), 'utf8').replace('127.0.0.1:8080', `127.0.0.1:${port}`))
  const child = run('nginx', ['-p', directory, '-c', config, '-e', join(directory, 'error.log')])
  const reload = () => {
    writeUpstream()
    child.kill('SIGHUP')
  }
  return {
    port,
    keepsClients: false,
    leaves: async instance => {
      await sleep(TOLD_LATE)
      present.delete(instance)
      reload()
    },
    returns: async instance => {
      present.add(instance)
      reload()
    },
    // Its workers end with it; SIGKILL would leave them behind.
    kill: () => { child.kill('SIGTERM') }
  }
}

function run (command: string, args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  return spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'inherit'] })
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
