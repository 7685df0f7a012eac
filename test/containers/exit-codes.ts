// What README.md, docs/deployment.md, docs/kubernetes.md and docs/troubleshooting.md say of signals, PID 1, grace periods and exit codes.

import type { Cases } from './cases.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import { RawClient } from '../helpers.ts'
import { installPackages } from '../packages.ts'
import { COMPLETE, RECEIVED, request } from './cases.ts'
import { DOCS, EXAMPLE } from './images.ts'

const SERVER = ['node', 'server.js']
/** Seconds that a container gets which will not stop by itself, and one that will. */
const SHORT = 2
const LONG = 30

export const exitCodes: Cases = {
  '0: as PID 1, under --init and under tini, the request in flight is answered': async (t, podman) => {
    const command = await podman.call('inspect', '--format={{join .Config.Cmd " "}}', EXAMPLE)
    for (const [options, before, isFirst] of [[[], [], true], [['--init'], [], false], [[], ['tini', '--'], false]] as const) {
      const container = await podman.start(t, EXAMPLE, { options, command: [...before, ...command.split(' ')] })
      const { pid } = (await container.listening()).log.lines[0] as { pid?: number }
      t.equal(pid === 1, isFirst, `${options.join()} ${before.join()} is PID ${pid}`)
      const client = await request(container, '/api/data?ms=1500')
      t.equal(await container.stop(LONG), 0)
      await client.closed
      t.match(client.text, /^HTTP\/1\.1 200 OK[^]*connection: close[^]*"ms":1500/i)
      t.equal(container.log.messages(RECEIVED).length, 1)
      t.equal(container.log.messages(COMPLETE).length, 1)
    }
    t.equal(await podman.call('inspect', '--format={{.Config.StopSignal}}', EXAMPLE), 'SIGTERM')
  },

  '1: a request is cut at drainTimeout': async (t, podman) => {
    const container = await podman.start(t, EXAMPLE, { env: { SHUTDOWN_TIMEOUT: '3' } })
    await container.listening()
    const client = await request(container, '/api/data?ms=5000')
    t.equal(await container.stop(LONG), 1)
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/)
    t.equal(container.log.messages(/^Request cut: /).length, 1)
    t.equal(container.log.messages(/^Shutdown callback .* completed/).length, 2, 'the cleanup has run')
  },

  '1: a second signal exits at once': async (t, podman) => {
    const container = await podman.start(t, EXAMPLE)
    await container.listening()
    await request(container, '/api/data?ms=5000')
    await container.kill('SIGTERM')
    await container.log.line(RECEIVED)
    await container.kill('SIGINT')
    t.equal((await container.ended()).ExitCode, 1)
    t.match(container.output, 'Second signal, SIGINT: exiting at once')
  },

  '1: after an uncaught error': async (t, podman) => {
    const container = await podman.start(t, DOCS)
    await container.listening()
    await request(container, '/throw')
    t.equal((await container.ended()).ExitCode, 1)
    t.match(container.output, '"Uncaught error"')
  },

  '1: npm start does not pass the signal on to Node, and fails; 143 under --init': async (t, podman) => {
    for (const [options, expected, output] of [[[], 1, /npm error signal SIGTERM/], [['--init'], 143, /^/]] as const) {
      const container = await podman.start(t, DOCS, { options, command: ['npm', 'start'] })
      await container.listening()
      const client = await request(container, '/slow?ms=20000')
      t.equal(await container.stop(LONG), expected)
      await client.closed
      t.equal(client.text, '', 'the request is cut')
      t.match(container.output, output)
      t.strictSame(container.log.messages(RECEIVED), [])
    }
  },

  '137: a shell as PID 1 drops the signal; 143 under --init; 0 with exec': async (t, podman) => {
    const shell = (script: string) => ['sh', '-c', script]
    const starts = [[[], 'node server.js', 137], [['--init'], 'node server.js', 143], [[], 'exec node server.js', 0]] as const
    for (const [options, script, expected] of starts) {
      const container = await podman.start(t, DOCS, { options, command: shell(script) })
      await container.listening()
      t.equal(await container.stop(expected === 137 ? SHORT : LONG), expected, script)
      t.equal(container.log.messages(RECEIVED).length, expected === 0 ? 1 : 0)
    }
  },

  '137: SIGTERM before listen() is dropped as PID 1; 143 under --init and under tini': async (t, podman) => {
    for (const [options, before, expected] of [[[], [], 137], [['--init'], [], 143], [[], ['tini', '--'], 143]] as const) {
      const container = await podman.start(t, DOCS, { options, env: { START: '60000' }, command: [...before, ...SERVER] })
      await container.log.line(/^starting$/)
      t.equal(await container.stop(expected === 137 ? SHORT : LONG), expected)
      t.strictSame(container.log.messages(RECEIVED), [])
    }
  },

  '137: without the plugin, SIGTERM is dropped as PID 1; 143 under --init, and requests are cut': async (t, podman) => {
    for (const [options, expected] of [[[], 137], [['--init'], 143]] as const) {
      const container = await podman.start(t, DOCS, { options, command: ['node', 'bare.js'] })
      await container.listening()
      const client = await request(container, '/slow?ms=20000')
      t.equal(await container.stop(expected === 137 ? SHORT : LONG), expected)
      await client.closed
      t.equal(client.text, '')
    }
  },

  '137: the grace period is shorter than the shutdown, so that requests are cut and no callback runs': async (t, podman) => {
    // With --time, and with the container's own setting.
    for (const [options, seconds] of [[[], SHORT], [[`--stop-timeout=${SHORT}`], undefined]] as const) {
      const container = await podman.start(t, EXAMPLE, { options, env: { SHUTDOWN_TIMEOUT: '20' } })
      await container.listening()
      const client = await request(container, '/api/data?ms=5000')
      t.equal(await container.stop(seconds), 137)
      await client.closed
      t.equal(client.text, '')
      t.equal(container.log.messages(RECEIVED).length, 1)
      t.strictSame(container.log.messages(/callback|complete$/), [])
    }
  },

  '137: SIGKILL, of which nothing is logged': async (t, podman) => {
    const container = await podman.start(t, EXAMPLE)
    await container.listening()
    const client = await request(container, '/api/data?ms=5000')
    await container.kill('SIGKILL')
    t.match(await container.ended(), { ExitCode: 137, OOMKilled: false })
    await client.closed
    t.equal(client.text, '')
    t.strictSame(container.log.messages(/received|shut|cut/i), [])
  },

  '137: the service exceeds the memory limit': async (t, podman) => {
    const container = await podman.start(t, DOCS, { options: ['--memory=128m'] })
    await container.listening()
    const client = await request(container, '/leak')
    t.match(await container.ended(), { ExitCode: 137, OOMKilled: true })
    await client.closed
    t.strictSame(container.log.messages(RECEIVED), [])
  },

  '137: a blocked event loop also stops the forced exit': async (t, podman) => {
    const container = await podman.start(t, DOCS, { env: { OPTIONS: '{"shutdownTimeout":1000,"drainTimeout":500}' } })
    await container.listening()
    new RawClient(container.port).get('/block')
    await container.log.line(/^blocked$/)
    t.equal(await container.stop(SHORT), 137)
  }
}

export const longExitCodes: Cases = {
  'podman stop waits 10 s: too short for the default shutdownTimeout (137), enough for 9 s (1)': async (t, podman) => {
    for (const [options, expected] of [['{"writeTimeout":false}', 137], ['{"shutdownTimeout":9000,"drainTimeout":7000}', 1]] as const) {
      const container = await podman.start(t, DOCS, { env: { OPTIONS: options } })
      await container.listening()
      t.equal(await container.inspect('.Config.StopTimeout'), 10)
      const client = await request(container, '/slow?ms=60000')
      t.equal(await container.stop(), expected)
      await client.closed
      t.match(client.text, expected === 1 ? /^HTTP\/1\.1 503 [^]*FST_ERR_GRACEFUL_DRAIN_TIMEOUT/ : /^$/)
    }
  },

  'NestJS, which ends its process by a signal: 143 under --init; as PID 1, 0 if nothing is open, else 1 at shutdownTimeout': async (t, podman) => {
    const { modules } = installPackages('ecosystem')
    for (const [options, open, expected] of [[['--init'], '0', 143], [[], '0', 0], [[], '1', 1]] as const) {
      const container = await podman.start(t, DOCS, {
        options: [...options, `--volume=${modules}:/node_modules:ro`], env: { OPEN: open }, command: ['node', 'nestjs.cjs']
      })
      await container.listening()
      t.equal(await container.stop(LONG), expected)
      t.equal(container.log.messages(COMPLETE).length, 1)
      t.equal(container.log.messages(/has not ended within shutdownTimeout/).length, expected === 1 ? 1 : 0)
    }
  },

  'with shutdownDelay, the container serves until load balancers have looked away': async (t, podman) => {
    const container = await podman.start(t, EXAMPLE, { env: { SHUTDOWN_DELAY: '3000' } })
    await container.listening()
    const stopped = container.stop(LONG)
    await container.log.line(/^Not ready any more/)
    await sleep(1_000)
    const client = await request(container, '/api/data?ms=1')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK[^]*connection: close/i)
    t.equal(await stopped, 0)
  }
}
