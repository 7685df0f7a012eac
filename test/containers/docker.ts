// What docs/deployment.md says of Docker, Compose and node:cluster.

import type { Container } from './podman.ts'
import type { Cases } from './cases.ts'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { eventually } from '../helpers.ts'
import { ROOT } from '../pages.ts'
import { COMPLETE, request } from './cases.ts'
import { DOCS, EXAMPLE } from './images.ts'

const LONG = 30
/** Of the program for node:cluster. */
const WORKERS = 2
/** Milliseconds between two looks at the processes of a container. */
const POLL_INTERVAL = 100

interface Compose {
  environment: Record<string, string>
  init: boolean
  stop_grace_period: string
  healthcheck: { test: string[], interval: string, retries: number }
}

const health = ([, ...command]: readonly string[], retries: number) =>
  [`--health-cmd=${JSON.stringify(command)}`, `--health-retries=${retries}`]

/** The healthcheck of the Compose file, of another probe. */
const probe = (path: string) => ['CMD', 'node', '-e', `fetch('http://127.0.0.1:3000${path}').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))`]

export const docker: Cases = {
  'Compose: healthy while it serves, unhealthy as soon as it shuts down, 0 within stop_grace_period': async (t, podman) => {
    const { services: { api } } = parse(readFileSync(join(ROOT, 'example/docker/compose.yaml'), 'utf8')) as { services: { api: Compose } }
    const { test, interval, retries } = api.healthcheck
    const stop = async (container: Container) => { await container.stop() }
    // Podman runs no healthcheck while it stops a container.
    const shutDown = async (container: Container) => {
      await container.kill('SIGTERM')
      await container.log.line(/^Waiting for 1 in-flight/)
      t.equal(await container.checkHealth(), 'unhealthy')
    }
    for (const end of [stop, shutDown]) {
      const container = await podman.start(t, EXAMPLE, {
        env: api.environment,
        options: [
          ...health(test, retries), `--health-interval=${interval}`, `--stop-timeout=${parseInt(api.stop_grace_period)}`, ...api.init ? ['--init'] : []
        ]
      })
      await container.listening()
      t.equal(await container.inspect('.State.Health.Status'), 'starting')
      t.equal(await container.checkHealth(), 'healthy')
      const client = await request(container, '/api/data?ms=4000')
      await end(container)
      t.equal((await container.ended()).ExitCode, 0)
      await client.closed
      t.match(client.text, /^HTTP\/1\.1 200 OK[^]*"ms":4000/)
    }
  },

  'a liveness check that tolerates less than the shutdown ends it early, unless /health answers 200 during a shutdown': async (t, podman) => {
    const settings = [[1, '{}', 137], [4, '{}', 0], [1, '{"health":{"duringShutdown":200}}', 0]] as const
    for (const [retries, options, expected] of settings) {
      const container = await podman.start(t, DOCS, {
        env: { OPTIONS: options }, options: [...health(probe('/health'), retries), '--health-on-failure=kill']
      })
      await container.listening()
      t.equal(await container.checkHealth(), 'healthy')
      await request(container, '/slow?ms=5000')
      // Not by `podman stop`: it is the shutdown of the service itself, as after an uncaught error.
      await container.kill('SIGTERM')
      await container.log.line(/^Waiting for 1 in-flight/)
      await container.checkHealth()
      t.equal((await container.ended()).ExitCode, expected, `${retries} retries, ${options}`)
    }
  },

  'with the default host, localhost, a published port does not reach the service': async (t, podman) => {
    const container = await podman.start(t, DOCS, { env: { HOST: 'localhost' } })
    await container.listening()
    await t.rejects(fetch(`http://127.0.0.1:${container.port}/health`))
    t.equal(await container.stop(LONG), 0)
  },

  'Node as PID 1 leaves orphans as zombies, an init reaps them': async (t, podman) => {
    for (const options of [[], ['--init']] as const) {
      const container = await podman.start(t, DOCS, { options })
      await container.listening()
      await (await request(container, '/orphan')).until(/\r\n\r\n/)
      const isOver = options.length === 0 ? (states: string) => states === 'Z' : (states: string) => states === ''
      while (!isOver(await statesOf('sleep', container))) await sleep(POLL_INTERVAL)
      t.pass(options.length === 0 ? 'a zombie' : 'reaped')
    }
  },

  'node:cluster: the primary exits after its workers; if it exits first, they are killed': async (t, podman) => {
    const container = await podman.start(t, DOCS, { command: ['node', 'cluster.js'] })
    await eventually(() => container.log.messages(/listening at http:\/\/127/).length === WORKERS)
    t.equal(await container.stop(LONG), 0)
    t.equal(container.log.messages(COMPLETE).length, WORKERS)

    const first = await podman.start(t, DOCS, { command: ['node', 'primary-first.js'] })
    await first.listening()
    const client = await request(first, '/slow?ms=2000')
    t.equal(await first.stop(LONG), 0)
    await client.closed
    t.equal(client.text, '')
    t.strictSame(first.log.messages(COMPLETE), [])
  }
}

/** The states of the processes of this name, as letters. */
async function statesOf (name: string, container: Container): Promise<string> {
  return await container.exec('sh', '-c', `grep -ls '^Name:.${name}$' /proc/[0-9]*/status | xargs -r sed -n 's/^State:.\\(.\\).*/\\1/p'`)
}
