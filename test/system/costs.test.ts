// The cost of a shutdown with thousands of requests in flight, what remains after it, and HTTP/2 shutdowns under load.

import t from 'tap'
import type { Test } from 'tap'
import type { ClientHttp2Session } from 'node:http2'
import type { LogLine } from '../helpers.ts'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:http2'
import { join } from 'node:path'
import { commandOf, eventually, fork, FORKED, LONG, portOf, RawClient, runCommand } from '../helpers.ts'
import { stressHttp2 } from '../stress/h2-shutdown.ts'

interface Crowd {
  requests: number
  connections: number
  how: 'answered' | 'answered, the last one first' | 'cut'
  /** Whether they arrive during the shutdownDelay. */
  late?: boolean
  /** The level of its logger, if it has one. */
  log?: string
  options: object
  nodeOptions?: readonly string[]
}

/** Shuts a service down with this number of requests in flight. */
async function shutDownCrowd (t: Test, { requests, connections, how, late = false, log = '', options, nodeOptions }: Crowd): Promise<{ cost: Partial<LogLine>, time: number }> {
  const program = fork(t, 'crowd', { REQUESTS: String(requests), HOW: how, LOG: log, OPTIONS: JSON.stringify(options) }, nodeOptions)
  const port = await portOf(program)
  const each = requests / connections
  let start = performance.now()
  if (late) {
    program.kill('SIGTERM')
    await program.log.line(/^shutting down/)
  }
  const clients = Array.from({ length: connections }, () => new RawClient(port).send('GET /held HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(each)))
  await program.log.line(/^all are in/)
  if (!late) {
    start = performance.now()
    program.kill('SIGTERM')
  }
  const cost = await program.log.line(/^cost/)
  const { signal } = await program.exit
  t.equal(signal, null)
  const time = performance.now() - start
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  const answers = clients.reduce((sum, { text }) => sum + text.split('HTTP/1.1 ').length - 1, 0)
  t.equal(answers, requests, 'each request gets a response')
  t.match(cost, how !== 'cut' ? { completed: requests, cut: 0 } : { completed: 0, cut: requests })
  return { cost: cost ?? {}, time }
}

const [MANY, MOST] = LONG ? [8_000, 20_000] : [4_000, 4_000]

for (const { requests, how, late, options } of [
  { requests: MANY, how: 'answered', late: false, options: { drainTimeout: 20_000 } },
  { requests: MANY, how: 'answered, the last one first', late: false, options: { drainTimeout: 20_000 } },
  { requests: MANY, how: 'answered', late: true, options: { drainTimeout: 20_000, shutdownDelay: 3_000 } },
  { requests: MOST, how: 'cut', late: false, options: { drainTimeout: 500 } }
] as const) {
  const what = `${requests} requests that ${late ? 'arrive during the delay and ' : ''}are ${how}`
  t.test(`${what}: a shutdown costs about as much over one connection as over 400`, async t => {
    const { cost: many } = await shutDownCrowd(t, { requests, connections: 400, how, late, options })
    const { cost: one } = await shutDownCrowd(t, { requests, connections: 1, how, late, options })
    const costs = `${String(one['cpu'])}ms over one, ${String(many['cpu'])}ms over 400`
    t.comment(costs)
    t.ok(Number(one['cpu']) <= 2 * Number(many['cpu']), costs)
  })
}

/** Without the optimizing compiler, and with room for all that is new, a request costs the same among few requests as among many. */
const EVEN = ['--min-semi-space-size=256', '--max-semi-space-size=256', '--no-opt', '--always-sparkplug']
/** With more than 16384 in a pipeline, Node's own cost is not linear: its queue of responses becomes a large object. */
const FEW = 3_000
/** Of four times as many. A cost that is quadratic grows by up to 16. */
const MOST_GROWTH = 4 * 1.6

for (const how of ['answered', 'answered, the last one first', 'cut'] as const) {
  t.test(`requests in a pipeline that are ${how}: a shutdown with four times as many costs about four times as much`, async t => {
    const options = how === 'cut' ? { drainTimeout: 500 } : { drainTimeout: 20_000 }
    const least = new Map<number, number>()
    const growth = () => {
      const [none = 0, few = 0, many = 0] = least.values()
      // If few cost no more than none, nothing has been measured.
      return few > none ? (many - none) / (few - none) : Infinity
    }
    // Other programs on the machine make a round dearer, so the cheapest one counts. One that is too dear gets further rounds.
    for (let round = 1; round <= 2 || round <= 8 && growth() > MOST_GROWTH; round++) {
      for (const requests of [1, FEW, 4 * FEW]) {
        const { cost } = await shutDownCrowd(t, { requests, connections: 1, how, options, nodeOptions: EVEN })
        least.set(requests, Math.min(Number(cost['cpu']), least.get(requests) ?? Infinity))
      }
    }
    const costs = `${[...least].map(([requests, cpu]) => `${requests} requests cost ${cpu}ms`).join(', ')}: ${growth().toFixed(1)} times as much`
    t.comment(costs)
    t.ok(growth() <= MOST_GROWTH, costs)
  })
}

for (const { log, shutdownTimeout } of [{ log: '', shutdownTimeout: 5_000 }, { log: 'error', shutdownTimeout: 5_000 }]) {
  for (const connections of [400, 1]) {
    const over = `over ${connections} connection${connections === 1 ? '' : 's'}`
    t.test(`${MOST} requests in flight ${over}, all of which are cut, do not delay the exit${log === '' ? '' : ', with a logger'}`, async t => {
      const { time } = await shutDownCrowd(t, {
        requests: MOST, connections, how: 'cut', log, options: { shutdownTimeout, drainTimeout: 500 }
      })
      t.comment(`gone after ${Math.round(time)}ms`)
      t.ok(time < shutdownTimeout + 1_000, `gone after ${Math.round(time)}ms`)
    })
  }
}

const LENGTH = 100_000

interface Upload {
  what: string
  /** What the client does once its upload has begun. */
  next: (client: RawClient) => void
}

const uploads: Upload[] = [
  { what: 'that stands still', next: () => {} },
  { what: 'whose client disconnects', next: ({ socket }) => { socket.destroy() } },
  { what: 'whose client half-closes', next: ({ socket }) => { socket.end() } },
  { what: 'that is complete', next: client => { client.send('x'.repeat(LENGTH - 4)) } }
]

for (const { what, next } of uploads) {
  t.test(`a rejected upload ${what} leaves no timer: the process ends by itself at once`, async t => {
    const program = fork(t, 'own-close')
    const port = await portOf(program)
    const held = new RawClient(port).get('/held')
    const uploading = new RawClient(port)
    await once(uploading.socket, 'connect')
    await new RawClient(port).get('/close').until(/closing/)
    uploading.send(`POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: ${LENGTH}\r\n\r\nhalf`)
    // Another request, on its own connection, shows that the server has read what came before.
    await new RawClient(port).get('/other').until(/503/)
    next(uploading)
    await new RawClient(port).get('/release').until(/released/)
    await held.closed
    t.match(held.text, /200 OK[^]*held$/)
    await program.log.line(/^closed/)
    const start = performance.now()
    t.strictSame(await program.exit, { code: 0, signal: null })
    const time = performance.now() - start
    t.ok(time < 1_000, `gone ${Math.round(time)}ms after it had closed`)
  })
}

t.test('a probe with half a body, whose client disconnects, leaves no timer behind: the process ends by itself at once', async t => {
  const program = fork(t, 'own-close')
  const port = await portOf(program)
  const probe = new RawClient(port).send('GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhalf')
  await probe.until(/healthy/)
  probe.socket.destroy()
  await new RawClient(port).get('/close').until(/closing/)
  await program.log.line(/^closed/)
  const start = performance.now()
  t.strictSame(await program.exit, { code: 0, signal: null })
  t.ok(performance.now() - start < 1_000)
})

t.test('HTTP/2: a rejected upload leaves no timer: the process ends by itself at once', async t => {
  const program = fork(t, 'own-close', { HTTP2: '1', OPTIONS: '{"shutdownDelay":300}' })
  const session = connect(`http://127.0.0.1:${await portOf(program)}`)
  session.on('error', () => {})
  const held = session.request({ ':path': '/held' })
  const upload = session.request({ ':path': '/upload', ':method': 'POST', 'content-type': 'application/octet-stream' })
  for (const stream of [held, upload]) stream.on('error', () => {}).resume()
  upload.write('half')
  const close = session.request({ ':path': '/close' })
  await once(close.resume(), 'close')
  const closed = program.log.line(/^closed/)
  // Half of an upload that arrived in time is waited for; its client then resets the stream.
  upload.close(8)
  const release = connect(`http://127.0.0.1:${await portOf(program)}`)
  release.on('error', () => {})
  await once(release.request({ ':path': '/release' }).resume(), 'close')
  await closed
  const start = performance.now()
  t.strictSame(await program.exit, { code: 0, signal: null })
  t.ok(performance.now() - start < 1_000)
  release.destroy()
  session.destroy()
})

t.test('HTTP/2: shutdowns under load do not abort the process', async t => {
  const ROUNDS = LONG ? 20 : 3
  const outcomes = await Promise.all([stressHttp2(ROUNDS), stressHttp2(ROUNDS)])
  for (const { code, signal, rounds, stderr } of outcomes) t.strictSame({ code, signal, rounds, stderr }, { code: 0, signal: null, rounds: ROUNDS, stderr: '' })
})

t.test('HTTP/2: closing sessions under load does not corrupt the heap', { skip: hasValgrind() ? false : 'needs valgrind' }, async t => {
  const errors = join(t.testdir(), 'errors.txt')
  const program = runCommand(t, ['valgrind', '--smc-check=all-non-file', `--log-file=${errors}`, ...commandOf('own-close')], { HTTP2: '1' })
  const port = await portOf(program)
  const sessions = Array.from({ length: 4 }, () => connect(`http://127.0.0.1:${port}`).on('error', () => {}))
  const send = (session: ClientHttp2Session, path: string, then = () => {}) => {
    if (!session.closed && !session.destroyed) session.request({ ':path': path }).on('error', () => {}).on('close', then).resume()
  }
  let answered = 0
  for (const session of sessions) {
    const sendNext = () => {
      answered++
      send(session, '/missing', sendNext)
    }
    for (let stream = 0; stream < 10; stream++) send(session, '/missing', sendNext)
  }
  await eventually(() => answered > 100, FORKED)
  send(sessions[0] as ClientHttp2Session, '/close')
  t.strictSame(await program.exit, { code: 0, signal: null })
  t.notMatch(readFileSync(errors, 'utf8'), /Invalid (?:read|write|free)/)
})

function hasValgrind (): boolean {
  return spawnSync('valgrind', ['--version']).status === 0
}
