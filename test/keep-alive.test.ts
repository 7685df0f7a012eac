// Clients that never stop asking, while the process is told to stop.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from './helpers.ts'
import { Agent, get } from 'node:http'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fork, LONG, RawClient } from './helpers.ts'

const CLIENTS = 100
const RUNS = LONG ? 20 : 4

type Outcome = 'answered' | 'answered for the last time' | 'refused' | 'nobody listens' | `lost: ${string}`

/** One request, read to its end. */
async function ask (port: number, agent: Agent, path: string): Promise<Outcome> {
  return await new Promise(resolve => {
    const request = get({ port, host: '127.0.0.1', agent, path }, response => {
      let text = ''
      response.on('data', (chunk: Buffer) => { text += chunk.toString() })
      response.on('error', error => { resolve(`lost: ${error.message}`) })
      response.on('close', () => {
        if (!response.complete) resolve('lost: torn')
        else if (response.statusCode === 200 && text === 'served') resolve(response.headers.connection === 'close' ? 'answered for the last time' : 'answered')
        else if (response.statusCode === 503 && text.includes('FST_ERR_GRACEFUL_SHUTTING_DOWN')) resolve('refused')
        else resolve(`lost: ${response.statusCode} ${text}`)
      })
    })
    request.on('error', (error: NodeJS.ErrnoException) => {
      // A reset while connecting comes from the kernel, whose queue the process never saw: nothing had been sent.
      resolve(error.syscall === 'connect' ? 'nobody listens' : `lost: ${error.code} ${error.message}`)
    })
  })
}

/** Milliseconds: who is kept from running for longer is no client that asks at once. */
const STANDSTILL = 50
const TRIES = 10

/** Does it again where these clients were kept from running, by whatever else runs on the machine, after SIGTERM. */
async function undisturbed<T> (experiment: (onSignal: () => void) => Promise<T>): Promise<T> {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  for (let tries = 1; ; tries++) {
    const result = await experiment(() => { delay.enable() })
    delay.disable()
    if (delay.max / 1e6 < STANDSTILL || tries === TRIES) return result
    delay.reset()
  }
}

interface Shutdown {
  outcomes: Outcome[]
  exit: Awaited<Program['exit']>
}

/** SIGTERM comes while all clients ask; tells what each request met. */
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

t.test(`${CLIENTS} keep-alive clients in closed loops lose nothing, in ${RUNS} shutdowns`, async t => {
  for (let index = 0; index < RUNS; index++) {
    const outcomes = await run(t, '/', outcome => outcome.startsWith('answered'))
    t.ok(outcomes.filter(outcome => outcome === 'refused').length >= CLIENTS - 10, 'who was connected has read a refusal')
  }
})

t.test(`${CLIENTS} keep-alive clients that go on until nobody listens lose nothing, in ${RUNS / 2} shutdowns`, async t => {
  for (let index = 0; index < RUNS / 2; index++) {
    const outcomes = await run(t, '/', outcome => outcome.startsWith('answered') || outcome === 'refused')
    t.ok(outcomes.includes('refused'))
  }
})

t.test(`${CLIENTS} keep-alive clients of a route that is not counted lose nothing`, async t => {
  const outcomes = await run(t, '/uncounted', outcome => outcome === 'answered')
  t.strictSame(new Set(outcomes), new Set(['answered', 'answered for the last time']))
})

t.test('a client that asks again as soon as the last answer in flight has ended, a stream, is refused and not reset', async t => {
  const text = await undisturbed(async onSignal => {
    const service = fork(t, 'answers')
    const { ports: [port] } = await service.log.line(/^ready$/) as unknown as { ports: [number] }
    const client = new RawClient(port).get('/stream')
    await client.until(/first/)
    service.kill('SIGTERM')
    onSignal()
    await client.until(/\r\n0\r\n\r\n$/)
    client.text = ''
    // No event tells when a connection would be closed too early.
    await sleep(20)
    await client.get('/').closed
    return client.text
  })
  t.match(text, /^HTTP\/1\.1 503[^]*FST_ERR_GRACEFUL_SHUTTING_DOWN/)
})
