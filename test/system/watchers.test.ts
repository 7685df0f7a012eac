// Ctrl-C under programs that run a service: they deliver it twice.

import t from 'tap'
import type { Test } from 'tap'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fixture, portOf, RawClient, runCommand } from '../helpers.ts'

const modules = fileURLToPath(new URL('../../node_modules/', import.meta.url))
const node = [process.execPath, '--import=tsx']

/** A package whose script starts the service. */
function packageOf (t: Test): string {
  const directory = t.testdir({})
  const start = `${process.execPath} --import=${modules}tsx/dist/loader.mjs ${fixture('service')}`
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ name: 'service', scripts: { start } }))
  return directory
}

const runners: Array<[name: string, command: (t: Test) => string[]]> = [
  ['node --watch', () => [...node, '--watch', fixture('service')]],
  ['tsx watch', () => [process.execPath, `${modules}tsx/dist/cli.mjs`, 'watch', fixture('service')]],
  ['nodemon', () => [process.execPath, `${modules}nodemon/bin/nodemon.js`, '--quiet', '--exec', node.join(' '), fixture('service')]],
  ['npm run', t => ['npm', '--prefix', packageOf(t), 'run', '--silent', 'start']]
]

/** On a machine with much other load, a tool may pass on its copy after SIGNAL_COPY; then it is a second signal, by design. */
const TRIES = 4

for (const [name, command] of runners) {
  t.test(`Ctrl-C under ${name} is one graceful shutdown, without a delay`, async t => {
    for (let tries = 1; tries <= TRIES; tries++) {
      const service = runCommand(t, command(t), { OPTIONS: '{"shutdownDelay":20000,"shutdownTimeout":50000}' })
      const client = new RawClient(await portOf(service)).get('/slow?ms=600')
      await service.log.line(/slow request is in/)
      service.killGroup('SIGINT')
      await service.exit
      if (tries < TRIES && service.log.messages(/Second signal/).length > 0) continue
      await client.closed
      t.match(client.text, /200 OK[^]*slow$/)
      t.strictSame(service.log.messages(/received|Second signal|still serving|callback runs|complete$/),
        ['SIGINT received, shutting down', 'callback runs: SIGINT', 'Graceful shutdown complete'])
      return
    }
  })
}
