// Clients that never stop asking, while the process is told to stop.

import t from 'tap'
import type { Test } from 'tap'
import { Agent, get } from 'node:http'
import { fork } from './helpers.ts'

const CLIENTS = 100
const RUNS = 20

type Outcome = 'answered' | 'refused' | 'nobody listens' | `lost: ${string}`

/** One request, read to its end. */
async function ask (port: number, agent: Agent): Promise<Outcome> {
  return await new Promise(resolve => {
    const request = get({ port, host: '127.0.0.1', agent }, response => {
      let text = ''
      response.on('data', (chunk: Buffer) => { text += chunk.toString() })
      response.on('error', error => { resolve(`lost: ${error.message}`) })
      response.on('close', () => {
        if (!response.complete) resolve('lost: torn')
        else if (response.statusCode === 200 && text === 'served') resolve('answered')
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

/** SIGTERM comes while all clients ask; tells what each request met. */
async function run (t: Test, goesOn: (outcome: Outcome) => boolean): Promise<Outcome[]> {
  const service = fork(t, 'service', { OPTIONS: '{"health":false}', LOG_LEVEL: 'warn' })
  const { port } = await service.log.line(/^ready$/) as unknown as { port: number }
  const outcomes: Outcome[] = []
  const loop = async (): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    let outcome: Outcome
    do {
      outcome = await ask(port, agent)
      outcomes.push(outcome)
      if (outcomes.length === 20 * CLIENTS) service.kill('SIGTERM')
    } while (goesOn(outcome))
    agent.destroy()
  }
  await Promise.all(Array.from({ length: CLIENTS }, loop))
  t.strictSame(await service.exit, { code: 0, signal: null })
  t.strictSame(outcomes.filter(outcome => outcome.startsWith('lost')), [])
  return outcomes
}

t.test(`${CLIENTS} keep-alive clients in closed loops lose nothing, in ${RUNS} shutdowns`, async t => {
  for (let index = 0; index < RUNS; index++) {
    const outcomes = await run(t, outcome => outcome === 'answered')
    t.ok(outcomes.filter(outcome => outcome === 'refused').length >= CLIENTS - 10, 'who was connected has read a refusal')
  }
})

t.test(`${CLIENTS} keep-alive clients that go on until nobody listens lose nothing, in ${RUNS / 2} shutdowns`, async t => {
  for (let index = 0; index < RUNS / 2; index++) {
    const outcomes = await run(t, outcome => outcome === 'answered' || outcome === 'refused')
    t.ok(outcomes.includes('refused'))
  }
})
