// Clients that send requests continuously while the process is stopped.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { Agent, get } from 'node:http'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fork, LONG, RawClient } from '../helpers.ts'

const CLIENTS = 100
const RUNS = LONG ? 20 : 2

type Outcome = 'answered' | 'answered for the last time' | 'refused' | 'connection refused' | `lost: ${string}`

/** Sends a request and reads its response to the end. */
async function ask (port: number, agent: Agent, path: string): Promise<Outcome> {
  return await new Promise(resolve => {
    const request = get({ port, host: '127.0.0.1', agent, path }, response => {
      let text = ''
      response.on('data', (chunk: Buffer) => { text += chunk.toString() })
      response.on('error', error => { resolve(`lost: ${error.message}`) })
      response.on('close', () => {
        if (!response.complete) resolve('lost: incomplete')
        else if (response.statusCode === 200 && text === 'served') resolve(response.headers.connection === 'close' ? 'answered for the last time' : 'answered')
        else if (response.statusCode === 503 && text.includes('FST_ERR_GRACEFUL_SHUTTING_DOWN')) resolve('refused')
        else resolve(`lost: ${response.statusCode} ${text}`)
      })
    })
    request.on('error', (error: NodeJS.ErrnoException) => {
      // A reset while connecting comes from the kernel, for a connection that the process never accepted: nothing had been sent.
      resolve(error.syscall === 'connect' ? 'connection refused' : `lost: ${error.code} ${error.message}`)
    })
  })
}

/** Milliseconds. A client that could not run for longer does not send its next request at once. */
const MAX_LOOP_DELAY = 50
const TRIES = 10

/** Repeats the experiment if other load on the machine kept the clients from running after SIGTERM. */
async function undisturbed<T> (experiment: (onSignal: () => void) => Promise<T>): Promise<T> {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  for (let tries = 1; ; tries++) {
    const result = await experiment(() => { delay.enable() })
    delay.disable()
    if (delay.max / 1e6 < MAX_LOOP_DELAY || tries === TRIES) return result
    delay.reset()
  }
}

interface Shutdown {
  outcomes: Outcome[]
  exit: Awaited<Program['exit']>
}

/** Sends SIGTERM while all clients send requests; returns the outcome of each request. */
async function shutDown (t: Test, path: string, goesOn: (outcome: Outcome) => boolean, onSignal: () => void): Promise<Shutdown> {
  const service = fork(t, 'service', { OPTIONS: '{"health":false}', LOG_LEVEL: 'warn' })
  const { port } = await service.log.line(/^ready$/) as unknown as { port: number }
  const outcomes: Outcome[] = []
  const loop = async (): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    let outcome: Outcome
    do {
      outcome = await ask(port, agent, path)
      outcomes.push(outcome)
      if (outcomes.length === 20 * CLIENTS) {
        service.kill('SIGTERM')
        onSignal()
      }
    } while (goesOn(outcome))
    agent.destroy()
  }
  await Promise.all(Array.from({ length: CLIENTS }, loop))
  return { outcomes, exit: await service.exit }
}

async function run (t: Test, path: string, goesOn: (outcome: Outcome) => boolean): Promise<Outcome[]> {
  const { outcomes, exit } = await undisturbed(async onSignal => await shutDown(t, path, goesOn, onSignal))
  t.strictSame(exit, { code: 0, signal: null })
  t.strictSame(outcomes.filter(outcome => outcome.startsWith('lost')), [])
  return outcomes
}

t.test(`${CLIENTS} keep-alive clients in closed loops lose no request, in ${RUNS} shutdowns`, async t => {
  for (let index = 0; index < RUNS; index++) {
    const outcomes = await run(t, '/', outcome => outcome.startsWith('answered'))
    t.ok(outcomes.filter(outcome => outcome === 'refused').length >= CLIENTS - 10, 'each connected client has read a 503')
  }
})

t.test(`${CLIENTS} keep-alive clients that continue until the listener is closed lose no request, in ${RUNS / 2} shutdowns`, async t => {
  for (let index = 0; index < RUNS / 2; index++) {
    const outcomes = await run(t, '/', outcome => outcome.startsWith('answered') || outcome === 'refused')
    t.ok(outcomes.includes('refused'))
  }
})

t.test(`${CLIENTS} keep-alive clients of a route that is not counted lose no request`, async t => {
  const outcomes = await run(t, '/uncounted', outcome => outcome === 'answered')
  t.strictSame(new Set(outcomes), new Set(['answered', 'answered for the last time']))
})

t.test('a request sent as soon as the last response in flight, a stream, has ended is rejected with 503, and its connection is not reset', async t => {
  const text = await undisturbed(async onSignal => {
    const service = fork(t, 'answers')
    const { ports: [port] } = await service.log.line(/^ready$/) as unknown as { ports: [number] }
    const client = new RawClient(port).get('/stream')
    await client.until(/first/)
    service.kill('SIGTERM')
    onSignal()
    await client.until(/\r\n0\r\n\r\n$/)
    client.text = ''
    // There is no event for a connection that is closed too early.
    await sleep(20)
    await client.get('/').closed
    return client.text
  })
  t.match(text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
})
