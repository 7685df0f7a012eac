// A listening socket that outlives the service: the parent process has opened it, and passes it to one process after another.

import t from 'tap'
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'
import type { ShutdownReport } from '../../types/index.ts'
import type { LoadProtocol, LoadTarget } from '../load.ts'
import { createCredentials } from '../credentials.ts'
import type { Program } from '../helpers.ts'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { renameSync, statSync } from 'node:fs'
import { connect as connectHttp2, constants } from 'node:http2'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectSecure } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { LONG, RawClient, TYPESCRIPT, commandOf, eventually, freePort, portOf, runCommand, socketPath } from '../helpers.ts'
import { openListener } from '../inherited.ts'
import { Load } from '../load.ts'
import { page } from '../pages.ts'

const RESTARTS = LONG ? 5 : 2
const PROTOCOLS = ['http', 'https', 'h2c', 'h2'] as const
const RESTARTER = commandOf('restarter')

const { key, cert } = await createCredentials()
const CERTIFICATE = JSON.stringify({ key, cert })

interface Activated {
  parent: Program
  target: LoadTarget
}

/** A plain parent process: its socket is opened here, and only it keeps it open. */
async function plainParent (t: Test, env: Record<string, string> = {}, path?: string): Promise<Activated> {
  // Node removes the path on which it has listened. systemd does not, and the one that clients know must stay.
  const { server, fd } = await openListener(path === undefined ? undefined : `${path}-`)
  if (path !== undefined) renameSync(`${path}-`, path)
  const target = path ?? (server.address() as AddressInfo).port
  const parent = runCommand(t, commandOf('restarter', env), { CERTIFICATE, ...env, ...path !== undefined && { SOCKET_PATH: path } }, [fd])
  server.close()
  return { parent, target }
}

const hasSystemd = spawnSync('systemd-socket-activate', ['--version']).error === undefined
const UNDER_SYSTEMD = { skip: hasSystemd ? false : 'systemd-socket-activate is not installed' }

/** systemd-socket-activate opens the socket, and becomes the parent process on the first connection. */
async function underSystemd (t: Test, command: readonly string[], env: Record<string, string> = {}, path?: string): Promise<Activated> {
  const target = path ?? await freePort()
  const settings = Object.entries({ CERTIFICATE, ...env, ...path !== undefined && { SOCKET_PATH: path } }).map(([name, value]) => `--setenv=${name}=${value}`)
  const address = path ?? `127.0.0.1:${target}`
  const parent = runCommand(t, ['systemd-socket-activate', `--listen=${address}`, ...settings, ...command])
  await eventually(() => /Listening on/.test(parent.output()))
  return { parent, target }
}

async function restartUnderLoad (t: Test, { parent, target }: Activated, protocol: LoadProtocol = 'http'): Promise<void> {
  // Undefined without a file, if a process has removed the path.
  const inode = () => typeof target === 'string' ? statSync(target, { throwIfNoEntry: false })?.ino : 'port'
  const opened = inode()
  const load = new Load(target, protocol)
  await eventually(() => load.processes === 1)
  for (let restart = 1; restart <= RESTARTS; restart++) {
    const before = load.answers.length
    await eventually(() => load.answers.length > before + 400)
    parent.kill('SIGHUP')
    await eventually(() => load.processes === restart + 1)
    await eventually(() => parent.log.messages(/service exited/).length === restart)
    t.equal(inode(), opened, 'the path of a Unix socket stays')
  }
  await load.stop()
  parent.kill('SIGTERM')
  await parent.exit
  t.equal(inode(), opened, 'the path of a Unix socket stays after the last exit')
  t.strictSame(load.lost, [])
  t.comment(`${load.answers.length} requests, ${RESTARTS} restarts, ${load.lost.length} lost, sent again: ${JSON.stringify(load.repeated)}`)
  const reports = parent.log.lines.flatMap(({ report }) => report === undefined ? [] : [report as ShutdownReport])
  t.strictSame(reports.map(({ refused, cut, exitCode }) => ({ refused, cut, exitCode })),
    Array.from({ length: RESTARTS + 1 }, () => ({ refused: 0, cut: [], exitCode: 0 })))
}

const AFTER_EXIT = 'when the next process starts after the exit'
const WHEN = {
  [AFTER_EXIT]: {},
  'when the next process starts during the shutdown': { OVERLAP: '1' },
  'with a delay': { OPTIONS: '{"shutdownDelay":200}' }
}

for (const protocol of PROTOCOLS) {
  for (const [when, settings] of Object.entries(WHEN)) {
    if (when !== AFTER_EXIT && protocol !== 'http' && !(LONG && protocol === 'h2')) continue
    t.test(`restarts under load lose no request on an inherited listener over ${protocol} ${when}`, async t => {
      await restartUnderLoad(t, await plainParent(t, { PROTOCOL: protocol, ...settings }), protocol)
    })
  }
}

for (const protocol of ['http', 'h2'] as const) {
  t.test(`restarts under load lose no request on an inherited Unix socket over ${protocol}`, async t => {
    await restartUnderLoad(t, await plainParent(t, { PROTOCOL: protocol }, socketPath(t)), protocol)
  })
}

for (const protocol of LONG ? ['http', 'h2'] as const : ['http'] as const) {
  t.test(`restarts under load lose no request with the socket of systemd over ${protocol}`, UNDER_SYSTEMD, async t => {
    await restartUnderLoad(t, await underSystemd(t, RESTARTER, { PROTOCOL: protocol }), protocol)
  })

  t.test(`restarts under load lose no request with the Unix socket of systemd over ${protocol}`, UNDER_SYSTEMD, async t => {
    await restartUnderLoad(t, await underSystemd(t, RESTARTER, { PROTOCOL: protocol }, socketPath(t)), protocol)
  })
}

t.test('systemd accepts the units on the page', UNDER_SYSTEMD, t => {
  const units = page('docs/deployment.md').fences.filter(({ language }) => language === 'ini')
  const types = units.map(({ code }) => /^\[(Service|Socket)\]$/m.exec(code)?.[1]?.toLowerCase())
  t.strictSame(types, ['service', 'socket'])
  const directory = t.testdir(Object.fromEntries(units.map(({ code }, index) => [`api.${types[index]}`, code.replace('/usr/bin/node', process.execPath)])))
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...types.map(type => `${directory}/api.${type}`)], { encoding: 'utf8' })
  t.equal(status, 0)
  // What it ignores is no error. It may say something about other units.
  t.notMatch(stderr, /\bapi\./)
  t.end()
})

t.test('the example serves on the socket of systemd', UNDER_SYSTEMD, async t => {
  const server = fileURLToPath(new URL('../../example/server.ts', import.meta.url))
  const database = join(t.testdir({}), 'notes.sqlite')
  const { parent, target } = await underSystemd(t, [process.execPath, ...TYPESCRIPT, server], { DATABASE: database, PORT: '1' })
  const client = new RawClient(target).get('/ready')
  await client.until(/"ready":true/)
  t.equal(await portOf(parent), target)
  parent.kill('SIGTERM')
  t.strictSame(await parent.exit, { code: 0, signal: null })
})

/** A process that drains, because it has a slow request in flight. */
async function draining (t: Test): Promise<Activated & { pid: string, slow: RawClient, idle: RawClient }> {
  const { parent, target } = await plainParent(t)
  const idle = new RawClient(target).get('/')
  await idle.until(/\r\n\r\n\d+$/)
  const pid = bodyOf(idle)
  const slow = new RawClient(target).get('/slow')
  await parent.log.line(/slow request is in/)
  parent.kill('SIGUSR2')
  await parent.log.line(/Waiting for 1 in-flight request/)
  return { parent, target, pid, slow, idle }
}

function bodyOf ({ text }: RawClient): string {
  return text.slice(text.lastIndexOf('\r\n') + 2)
}

t.test('a connection that arrives while the process drains is answered by the next one', async t => {
  const { parent, target, pid, slow } = await draining(t)
  const client = new RawClient(target).get('/')
  await once(client.socket, 'connect')
  await slow.closed
  t.match(slow.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close/i)
  t.equal(bodyOf(slow), pid)
  await parent.log.line(/service exited: 0/)
  const between = new RawClient(target).get('/')
  await once(between.socket, 'connect')
  t.equal(client.text, '')
  parent.kill('SIGALRM')
  await Promise.all([client, between].map(async one => { await one.until(/\r\n\r\n\d+$/) }))
  for (const { text } of [client, between]) t.match(text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: keep-alive/i)
  t.not(bodyOf(client), pid)
  t.equal(bodyOf(between), bodyOf(client))
})

t.test('a request on an open connection is served while the process drains, and is its last one', async t => {
  const { parent, pid, idle } = await draining(t)
  idle.text = ''
  await idle.get('/').closed
  t.match(idle.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close/i)
  t.equal(bodyOf(idle), pid)
  await parent.log.line(/service exited: 0/)
})

t.test('a connection that was accepted before the listener was closed has time to send a request', async t => {
  const { parent, target } = await plainParent(t, { OPTIONS: '{"shutdownDelay":300}' })
  await new RawClient(target).get('/').until(/\r\n\r\n\d+$/)
  parent.kill('SIGUSR2')
  await parent.log.line(/still serving/)
  const client = new RawClient(target)
  await parent.log.line(/All requests drained/)
  await client.get('/').closed
  t.match(client.text, /^HTTP\/1\.1 200 OK/)
  await parent.log.line(/service exited: 0/)
})

t.test('a silent connection does not make the drain longer than drainTimeout', async t => {
  const { parent, target } = await plainParent(t, { OPTIONS: '{"shutdownTimeout":5000,"drainTimeout":50}' })
  await new RawClient(target).get('/').until(/\r\n\r\n\d+$/)
  const silent = new RawClient(target)
  await eventually(() => parent.log.messages(/connection accepted/).length === 2)
  parent.kill('SIGUSR2')
  await silent.closed
  const { report } = await parent.log.line(/^Graceful shutdown complete/)
  const { phases } = report as ShutdownReport
  t.ok(phases.draining < 450, `drained for ${phases.draining}ms`)
})

/** A connection to a service with TLS and HTTP/2 that is accepted, but has not begun its handshake, when the service begins to drain. */
async function beforeHandshake (t: Test): Promise<{ parent: Program, session: () => ClientHttp2Session, upload: ClientHttp2Stream }> {
  const { parent, target } = await plainParent(t, { PROTOCOL: 'h2' })
  const open = (socket: Socket): ClientHttp2Session => {
    const secure = connectSecure({ socket, rejectUnauthorized: false, ALPNProtocols: ['h2'] })
    const session = connectHttp2('https://localhost', { createConnection: () => secure })
    t.teardown(() => { session.destroy() })
    return session
  }
  const upload = open(connect(target as number, '127.0.0.1')).request({ ':method': 'POST', ':path': '/', 'content-type': 'text/plain' })
  upload.write('begun')
  await parent.log.line(/incoming request/)
  const { socket } = new RawClient(target)
  await eventually(() => parent.log.messages(/connection accepted/).length === 2)
  parent.kill('SIGUSR2')
  await parent.log.line(/Waiting for 1 in-flight request/)
  return { parent, session: () => open(socket), upload }
}

t.test('an HTTP/2 session whose handshake has taken until the drain gets GOAWAY after its first request', async t => {
  const { parent, session, upload } = await beforeHandshake(t)
  const late = session()
  const goaway = once(late, 'goaway')
  const stream = late.request({ ':path': '/' })
  const [headers] = await once(stream, 'response') as [{ ':status': number }]
  t.equal(headers[':status'], 200)
  stream.resume()
  const [code] = await goaway as [number]
  t.equal(code, constants.NGHTTP2_NO_ERROR)
  t.strictSame(parent.log.messages(/All requests drained/), [])
  upload.resume().end()
  await parent.log.line(/service exited: 0/)
})

for (const [protocol, isAlone] of [['http', false], ['https', true]] as const) {
  const others = isAlone ? '' : ', beside an idle connection'
  t.test(`a slow client on a connection accepted before the listener was closed has time to send a request over ${protocol}${others}`, async t => {
    const { parent, target } = await plainParent(t, { PROTOCOL: protocol })
    if (!isAlone) await new RawClient(target).get('/').until(/\r\n\r\n\d+$/)
    const { socket } = new RawClient(target)
    await eventually(() => parent.log.messages(/connection accepted/).length === (isAlone ? 1 : 2))
    parent.kill('SIGUSR2')
    await parent.log.line(/All requests drained/)
    // Longer than the time without requests after which idle connections are closed.
    await sleep(150)
    const client = new RawClient(protocol === 'https' ? connectSecure({ socket, rejectUnauthorized: false }) : socket).get('/')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close/i)
    await parent.log.line(/service exited: 0/)
  })
}
