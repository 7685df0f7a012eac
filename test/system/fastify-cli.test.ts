// SIGTERM to an application that fastify-cli runs.

import t from 'tap'
import { fileURLToPath } from 'node:url'
import { fixture, RawClient, runNode, socketPath } from '../helpers.ts'

const outcomes = [['answers requests in flight and exits with 0', 300, 0], ['exits with 1 when a request was cut', 5_000, 1]] as const
for (const [what, ms, code] of outcomes) {
  t.test(`fastify start of fastify-cli ${what}`, async t => {
    const cli = fileURLToPath(import.meta.resolve('fastify-cli/cli.js'))
    // Not on a port: the CLI takes 0 for its default.
    const path = socketPath(t)
    const options = ['--socket', path, '--log-level', 'info', '--close-grace-delay', '10000']
    const service = runNode(t, [cli, 'start', ...options, fixture('cli-app')], {}, ['--import=tsx'])
    await service.log.line(/listening at/)
    const client = new RawClient(path).get(`/slow?ms=${ms}`)
    await service.log.line(/slow request is in/)
    service.kill('SIGTERM')
    await client.closed
    t.match(client.text, code === 0 ? /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close[^]*slow$/i : /^HTTP\/1\.1 503/)
    t.strictSame(await service.exit, { code, signal: null })
    t.strictSame(service.log.messages(/^callback runs/), ['callback runs'])
  })
}
