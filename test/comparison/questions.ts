// The questions, and how each is put to real processes over real sockets.

import type { Program, Settings } from './program.ts'
import { once } from 'node:events'
import { connect } from 'node:http2'
import { createConnection } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'undici'
import { RawClient } from '../helpers.ts'
import { LIMIT, answer, get, getOnce, within } from './program.ts'

/** The rows of the table. */
export const QUESTIONS = {
  answered: 'a request in flight is answered',
  readiness: 'the readiness probe fails before the listener closes',
  delayed: 'request on an open connection during the delay',
  delayedClose: 'responses during the delay say `Connection: close`',
  drainingOpen: 'request on an idle connection while draining',
  drainingNew: 'request on a new connection while draining',
  close: 'the last response says `Connection: close`',
  exit: 'exits while a client keeps its connection open after its answer',
  idle: 'exits while an idle connection is open',
  silent: 'exits while a connection is silent or has sent half a header',
  upload: 'exits while an upload stalls',
  exitCode: 'exit code if all went well',
  download: 'a slow reader gets its whole response',
  goaway: 'HTTP/2: GOAWAY while a stream is in flight',
  stream: 'HTTP/2: a stream in flight is answered',
  webSocket: 'close code of a WebSocket',
  cleanup: 'cleanup waits for a handler',
  cleanupEarly: 'cleanup waits for a handler that continues to work after it has sent 202',
  cleanupGone: 'cleanup waits for a handler after its client has disconnected',
  bounded: 'a request that never ends is cut',
  cutCleanup: 'cleanup also runs if a request was cut',
  cutExit: 'exit code if a request was cut',
  cutNamed: 'the log names a request that was cut',
  hangingCleanup: 'a cleanup that hangs is cut',
  instances: 'several instances in one process all finish',
  second: 'second SIGTERM',
  uncaught: 'a request in flight is answered after an uncaught error'
} as const

export type Question = keyof typeof QUESTIONS
export type Answers = Partial<Record<Question, string>>

type Start = (settings?: Partial<Settings>) => Program

/** `Settings.delay`, in milliseconds. */
const DELAY = 1500
/** Longer than any package takes unless something delays it. */
const AT_ONCE = 1500
/** For questions that are answered only at the limit. */
const SHORT_LIMIT = 1500
/** How long after its limit a program may exit. */
const LATE = 2500

const yesNo = (condition: boolean): string => condition ? 'yes' : 'no'

/** Each starts its own programs and answers some of the questions. */
export const SCENARIOS: Record<string, (start: Start) => Promise<Answers>> = {
  async deploy (start) {
    const program = start({ delay: DELAY })
    const { port, probe } = await program.event('listening')
    const first = await keptAlive(port)
    const second = await keptAlive(port)
    const held = new RawClient(port as number).get('/held')
    await program.event('held')
    program.signal()

    await sleep(500)
    const isDelaying = (await getOnce(port as number, '/')).result === '200'
    const readiness = probe === undefined ? 'no probe' : (await getOnce(probe.port, probe.path)).result
    const delayed = isDelaying ? await get(first, '/') : undefined

    let fresh = await getOnce(port as number, '/')
    while (fresh.result === '200') fresh = await sleep(50).then(() => getOnce(port as number, '/'))
    // Listeners do not close immediately.
    await sleep(300)
    fresh = await getOnce(port as number, '/')
    const idle = second.socket.closed || second.socket.readableEnded ? 'closed' : (await get(second, '/')).result
    program.release()
    const last = await answer(held)
    return {
      answered: yesNo(last.result === '200' && last.isWhole),
      readiness: probe === undefined ? readiness : yesNo(isDelaying && readiness !== '200'),
      delayed: delayed === undefined ? 'no delay' : delayed.result === '200' ? 'served' : delayed.result,
      delayedClose: delayed === undefined ? 'no delay' : yesNo(delayed.closes),
      drainingOpen: idle === 'reset' ? 'closed' : idle,
      drainingNew: fresh.result,
      close: yesNo(last.closes),
      exit: await exitTime(program)
    }
  },

  async idle (start) {
    const program = start()
    const { port } = await program.event('listening')
    await keptAlive(port)
    program.signal()
    const idle = await exitTime(program)
    const exit = await within(program.exit, 0)
    return { idle, exitCode: exit === undefined ? 'no exit' : String(exit.code ?? exit.signal) }
  },

  async silent (start) {
    const program = start()
    const { port } = await program.event('listening')
    const silent = new RawClient(port as number)
    await once(silent.socket, 'connect')
    const half = new RawClient(port as number).send('GET / HTTP/1.1\r\nHost: te')
    await once(half.socket, 'connect')
    // Accepted after the other two.
    await getOnce(port as number, '/')
    program.signal()
    return { silent: await exitTime(program) }
  },

  async upload (start) {
    const program = start()
    const { port } = await program.event('listening')
    const client = new RawClient(port as number)
    client.send('POST /upload HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nstalls')
    await program.event('held')
    program.signal()
    const response = answer(client)
    if (await within(program.exit, AT_ONCE) !== undefined) return { upload: `yes, with ${(await response).result}` }
    return { upload: await within(program.exit, LIMIT - AT_ONCE + LATE) === undefined ? 'no exit' : 'at the limit' }
  },

  async download (start) {
    // Much more than the kernel buffers.
    const size = 32 * 1024 * 1024
    const program = start({ downloadSize: size, limit: 10_000 })
    const { port } = await program.event('listening')
    const socket = createConnection(port as number, '127.0.0.1')
    socket.on('error', () => {})
    socket.write('GET /download HTTP/1.1\r\nHost: test\r\n\r\n')
    const [head] = await once(socket, 'data') as [Buffer]
    socket.pause()
    program.signal()
    await sleep(1000)
    let missing = size - (head.length - head.indexOf('\r\n\r\n') - 4)
    for await (const chunk of socket) {
      missing -= (chunk as Buffer).length
      if (missing === 0) break
    }
    return { download: yesNo(missing === 0) }
  },

  async http2 (start) {
    const program = start({ http2: true })
    const { port } = await program.event('listening')
    const session = connect(`http://127.0.0.1:${port}`)
    session.on('error', () => {})
    const goaway = once(session, 'goaway').then(() => true, () => false)
    const stream = session.request({ ':path': '/held' })
    let text = ''
    stream.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }).on('error', () => {})
    const ended = new Promise(resolve => { stream.on('close', resolve) })
    await program.event('held')
    program.signal()
    const isTold = await within(goaway, 1000) === true
    program.release()
    await within(ended, 2000)
    session.destroy()
    return { goaway: yesNo(isTold), stream: yesNo(text === 'held') }
  },

  async webSocket (start) {
    const program = start({ webSocket: true, limit: SHORT_LIMIT })
    const { port } = await program.event('listening')
    const socket = new WebSocket(`ws://127.0.0.1:${port}/socket`)
    const closed = new Promise<number>(resolve => { socket.addEventListener('close', ({ code }) => { resolve(code) }) })
    await once(socket as unknown as EventTarget, 'message')
    program.signal()
    const code = await within(closed, SHORT_LIMIT + LATE)
    return { webSocket: code === undefined ? 'nothing' : code === 1006 ? 'no code' : String(code) }
  },

  async cleanup (start) {
    return { cleanup: await cleanupIsLast(start(), '/held') }
  },

  async cleanupEarly (start) {
    return { cleanupEarly: await cleanupIsLast(start(), '/early', async client => { await client.until(/accepted/) }) }
  },

  async cleanupGone (start) {
    return { cleanupGone: await cleanupIsLast(start(), '/held', async client => {
      client.socket.destroy()
      await client.closed
    }) }
  },

  async cut (start) {
    const program = start({ limit: SHORT_LIMIT })
    const { port } = await program.event('listening')
    new RawClient(port as number).get('/endless')
    await program.event('held')
    program.signal()
    const exit = await within(program.exit, SHORT_LIMIT + LATE)
    if (exit === undefined) return { bounded: 'no', cutCleanup: 'no exit', cutExit: 'no exit', cutNamed: 'no exit' }
    return {
      bounded: 'yes',
      cutCleanup: yesNo(program.has('cleanup')),
      cutExit: String(exit.code ?? exit.signal),
      cutNamed: yesNo(program.outputSinceSignal.split('\n').some(line => line.includes('/endless') && !line.includes('incoming request')))
    }
  },

  async hangingCleanup (start) {
    const program = start({ limit: SHORT_LIMIT, cleanupHangs: true })
    await program.event('listening')
    program.signal()
    return { hangingCleanup: yesNo(await within(program.exit, SHORT_LIMIT + LATE) !== undefined) }
  },

  async instances (start) {
    const program = start({ instances: 2 })
    const { port } = await program.event('listening', 2)
    const held = new RawClient(port as number).get('/held', ['Connection: close'])
    await program.event('held')
    program.signal()
    await within(program.exit, 1000)
    program.release()
    const { result } = await answer(held)
    await within(program.exit, AT_ONCE)
    const areClean = program.events.filter(({ event }) => event === 'cleanup').length === 2
    return { instances: yesNo(result === '200' && areClean) }
  },

  async second (start) {
    const program = start({ limit: 10_000 })
    const { port } = await program.event('listening')
    new RawClient(port as number).get('/held')
    await program.event('held')
    program.signal()
    await within(program.exit, 1000)
    program.signal()
    const exit = await within(program.exit, LATE)
    return { second: exit === undefined ? 'ignored' : `exit ${exit.code ?? exit.signal}` }
  },

  async uncaught (start) {
    const program = start()
    const { port } = await program.event('listening')
    const held = new RawClient(port as number).get('/held')
    await program.event('held')
    await getOnce(port as number, '/throw')
    await within(program.exit, 500)
    program.release()
    return { uncaught: yesNo((await answer(held)).result === '200') }
  }
}

/** A connection that has had a request and is idle now. */
async function keptAlive (port: number | undefined): Promise<RawClient> {
  const client = new RawClient(port as number)
  await get(client, '/')
  return client
}

async function exitTime (program: Program): Promise<string> {
  if (await within(program.exit, AT_ONCE) !== undefined) return 'yes'
  return await within(program.exit, LIMIT - AT_ONCE + LATE) === undefined ? 'no exit' : 'at the limit'
}

/** Whether cleanup begins only after the handler is done. */
async function cleanupIsLast (program: Program, path: string, then = async (_client: RawClient) => {}): Promise<string> {
  const { port } = await program.event('listening')
  const client = new RawClient(port as number).get(path, ['Connection: close'])
  await program.event('held')
  await then(client)
  // By then, the server has seen it.
  await getOnce(port as number, '/')
  program.signal()
  await within(program.event('cleanup').catch(() => {}), 1000)
  program.release()
  await within(program.exit, AT_ONCE)
  const order = program.events.map(({ event }) => event).filter(event => event === 'handler done' || event === 'cleanup')
  return yesNo(order.join() === 'handler done,cleanup')
}
