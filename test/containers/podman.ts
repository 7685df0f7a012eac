// Podman, with its images, containers and settings in a folder of its own, so that nothing of the machine's is touched.

import type { ChildProcess, ChildProcessByStdio } from 'node:child_process'
import type { Readable } from 'node:stream'
import type { Test } from 'tap'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort, Log } from '../helpers.ts'

/** Seconds until a container is killed, should this process end without having removed it. */
const LONGEST_LIFE = 600
/** The port on which all services listen in their containers. */
const PORT = 3000

/**
 * The limits are what a process without CAP_SYS_RESOURCE may pass on; Podman's defaults are higher. No network: a container that needs one
 * says so. Podman's bridge would change the network of the machine.
 */
const SETTINGS = `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=32768:32768"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

export interface Settings {
  /** Arguments of `podman create`. */
  options?: readonly string[]
  env?: Record<string, string>
  /** Instead of the image's. */
  command?: readonly string[]
}

/** The state of a container that has exited. */
export interface State {
  ExitCode: number
  OOMKilled: boolean
}

export class Podman {
  readonly directory = mkdtempSync(join(tmpdir(), 'graceful-containers-'))
  readonly #env: NodeJS.ProcessEnv
  readonly #calls = new Set<ChildProcess>()

  constructor () {
    const settings = join(this.directory, 'containers.conf')
    writeFileSync(settings, SETTINGS)
    // Without timers of systemd: the tests themselves run the healthchecks.
    this.#env = { ...process.env, CONTAINERS_CONF: settings, DISABLE_HC_SYSTEMD: 'true' }
  }

  /** Returns what it prints, without the line end. Rejects with what it prints to stderr. */
  async call (...args: string[]): Promise<string> {
    const call = promisify(execFile)('podman', this.#argumentsOf(args), {
      cwd: this.directory, env: this.#env, maxBuffer: 64 * 1024 * 1024
    })
    this.#calls.add(call.child)
    try {
      return (await call).stdout.trimEnd()
    } finally {
      this.#calls.delete(call.child)
    }
  }

  /** Starts a container with a published port; it is removed when the test ends. */
  async start (t: Test, image: string, { options = [], env = {}, command = [] }: Settings = {}): Promise<Container> {
    const port = await freePort()
    const id = await this.call('create', `--timeout=${LONGEST_LIFE}`, '--network=slirp4netns', `--publish=127.0.0.1:${port}:${PORT}`,
      ...Object.entries(env).map(([name, value]) => `--env=${name}=${value}`), ...options, image, ...command)
    this.removeAfter(t, 'container', id)
    return await this.startCreated(id, port)
  }

  /** Starts a container that has been created with this published port. */
  async startCreated (id: string, port: number): Promise<Container> {
    // In the folder of the container, because conmon 2.1 notes in its own that the memory limit was exceeded, and Podman looks there.
    const cwd = await this.call('inspect', '--format={{.StaticDir}}', id)
    const output = spawn('podman', this.#argumentsOf(['start', '--attach', '--sig-proxy=false', id]), {
      cwd, env: this.#env, stdio: ['ignore', 'pipe', 'pipe']
    })
    return new Container(this, id, port, output)
  }

  removeAfter (t: Test, kind: 'container' | 'pod', id: string): void {
    t.teardown(async () => { await this.call(kind, 'rm', '--force', '--time=0', id) })
  }

  /** Ends the calls in progress, such as a build. */
  async interrupt (): Promise<void> {
    await Promise.all([...this.#calls].map(async child => {
      child.kill('SIGTERM')
      await once(child, 'exit')
    }))
  }

  /** Ends and removes all that is in its folder, and the folder. */
  remove (): void {
    for (const child of this.#calls) child.kill('SIGKILL')
    for (const kind of ['pod', 'container']) {
      const args = this.#argumentsOf([kind, 'rm', '--all', '--force', '--time=0'])
      spawnSync('podman', args, { cwd: this.directory, env: this.#env, stdio: 'ignore' })
    }
    // An interrupted build leaves mounts.
    const mounts = readFileSync('/proc/mounts', 'utf8').split('\n').map(line => line.split(' ')[1] ?? '')
    for (const path of mounts.filter(mount => mount.startsWith(this.directory)).toReversed()) spawnSync('umount', ['--lazy', path])
    rmSync(this.directory, { recursive: true, force: true })
  }

  #argumentsOf (args: readonly string[]): string[] {
    return [...['root', 'runroot', 'tmpdir'].map(name => `--${name}=${join(this.directory, name)}`), '--storage-driver=overlay', ...args]
  }

  /** A new folder in its own. */
  folder (name: string): string {
    const path = join(this.directory, name)
    mkdirSync(path, { recursive: true })
    return path
  }
}

export class Container {
  readonly id: string
  /** Its published port, on 127.0.0.1. */
  readonly port: number
  readonly log = new Log()
  /** All that it has printed. */
  output = ''
  readonly #exited: Promise<unknown>
  readonly #podman: Podman

  /** @param output prints what the container prints, and exits when it does */
  constructor (podman: Podman, id: string, port: number, output: ChildProcessByStdio<null, Readable, Readable>) {
    this.#podman = podman
    this.id = id
    this.port = port
    for (const stream of [output.stdout, output.stderr]) {
      this.log.read(stream)
      stream.on('data', (chunk: string) => { this.output += chunk })
    }
    this.#exited = once(output, 'close')
  }

  /** Waits until the service listens. */
  async listening (): Promise<this> {
    const exited = this.#exited.then(() => { throw new Error(`It has exited: ${this.output}`) })
    await Promise.race([this.log.line(/listening at/), exited])
    return this
  }

  /** Waits until it has exited. */
  async ended (): Promise<State> {
    await this.#exited
    return await this.inspect('.State') as State
  }

  async inspect (field: string): Promise<unknown> {
    return JSON.parse(await this.#podman.call('inspect', `--format={{json ${field}}}`, this.id)) as unknown
  }

  /** What `podman stop` does: SIGTERM, and SIGKILL after this many seconds, or after those of the container. Returns its exit code. */
  async stop (seconds?: number): Promise<number> {
    await this.#podman.call('stop', ...seconds === undefined ? [] : [`--time=${seconds}`], this.id)
    return (await this.ended()).ExitCode
  }

  async kill (signal: NodeJS.Signals): Promise<void> {
    await this.#podman.call('kill', `--signal=${signal}`, this.id)
  }

  /** Runs a command in it. */
  async exec (...command: string[]): Promise<string> {
    return await this.#podman.call('exec', this.id, ...command)
  }

  /** Runs its healthcheck. Returns its health. */
  async checkHealth (): Promise<string> {
    // Its exit code is the health, too.
    await this.#podman.call('healthcheck', 'run', this.id).catch(() => {})
    return await this.inspect('.State.Health.Status') as string
  }
}
