// Draws a scenario. The limits of the plugin that the documentation states are kept here or in invariants.ts, each with a link.

import type { Arbitrary } from 'fast-check'
import type { Callback, Client, Hook, Instance, Protocol, Scenario, Step, Task, Trigger, Work } from './scenario.ts'
import * as fc from 'fast-check'

/** Part of shutdownTimeout that the delay and the drain must leave, see docs/errors.md, FST_ERR_GRACEFUL_BUDGET. */
const LEFT = 0.9

/** Loopback sockets of Linux buffer this much, so that only a larger answer depends on its reader. */
const LARGE = 6_000_000

/** Bytes of a head that are not all of it. */
const HEAD = 33

const ms = (max: number): Arbitrary<number> => fc.integer({ min: 0, max })

const work: Arbitrary<Work> = fc.record({
  answers: fc.constantFrom('return', 'return', 'reply', 'callback', 'stream', 'raw', 'throw'),
  ms: fc.oneof({ weight: 6, arbitrary: ms(150) }, { weight: 1, arbitrary: fc.constantFrom(500, 5_000) }),
  after: ms(150),
  size: fc.oneof({ weight: 6, arbitrary: ms(2_000) }, { weight: 1, arbitrary: fc.constant(200_000) })
})

const largeWork: Arbitrary<Work> = fc.record({
  answers: fc.constantFrom('return', 'stream', 'callback'), ms: ms(60), after: fc.constant(0), size: fc.constantFrom(500_000, LARGE)
})

const step: Arbitrary<Step> = fc.record({
  ms: ms(80), ends: fc.oneof({ weight: 10, arbitrary: fc.constant('well') }, { weight: 2, arbitrary: fc.constantFrom('badly', 'never') })
})

const callback: Arbitrary<Callback> = fc.tuple(
  step, fc.record({ when: fc.constantFrom('end', 'end', 'start'), timeout: fc.integer({ min: 20, max: 200 }) }, { requiredKeys: ['when'] })
).map(([base, own]) => Object.assign(base, own))

const task: Arbitrary<Task> = fc.tuple(step, ms(250)).map(([base, at]) => Object.assign(base, { at }))

const hook: Arbitrary<Hook> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ name: fc.constantFrom('onRequest', 'preParsing', 'preHandler', 'preSerialization', 'onSend', 'onResponse'), ms: ms(40) }) },
  { weight: 1, arbitrary: fc.record({ name: fc.constant('preParsing'), ms: ms(40), pipes: fc.constant(true) }) }
)

const delay: Arbitrary<Instance['shutdownDelay']> = fc.oneof(
  { weight: 2, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: ms(200) },
  { weight: 2, arbitrary: fc.record({ max: fc.integer({ min: 60, max: 200 }), quiet: fc.integer({ min: 10, max: 60 }) }) }
)

const instance: Arbitrary<Instance> = fc.record({
  shutdownDelay: delay,
  spread: fc.integer({ min: 20, max: 400 }),
  drainTimeout: fc.integer({ min: 150, max: 400 }),
  spare: fc.integer({ min: 500, max: 900 }),
  ahead: fc.oneof(fc.constant(0), ms(40)),
  hooks: fc.array(hook, { maxLength: 2 }),
  preClose: fc.array(step, { maxLength: 1 }),
  onClose: fc.array(step, { maxLength: 1 }),
  callbacks: fc.array(callback, { maxLength: 3 }),
  tasks: fc.array(task, { maxLength: 2 })
}, {
  requiredKeys: ['shutdownDelay', 'drainTimeout', 'spare', 'hooks', 'preClose', 'onClose', 'callbacks', 'tasks']
}).map(({ spare, ...rest }) => {
  const { drainTimeout, shutdownDelay } = rest
  const used = drainTimeout + (typeof shutdownDelay === 'number' ? shutdownDelay : shutdownDelay.max)
  if (rest.spread !== undefined) rest.spread = Math.min(rest.spread, used)
  return Object.assign(rest, { shutdownTimeout: Math.max(used + spare, Math.ceil(used / LEFT)) })
})

function client (protocol: Protocol, instances: number): Arbitrary<Client> {
  const versions = { http: [1], https: [1], h2c: [2], h2: [1, 2, 2] } as const
  const visit = { to: fc.nat(instances - 1), at: ms(400), http: fc.constantFrom<1 | 2>(...versions[protocol]) }
  const http1 = { ...visit, http: fc.constant<1>(1) }
  const clients: Array<[number, Arbitrary<Client>]> = [
    [6, fc.record({ ...visit, kind: fc.constant('loop'), work, pause: fc.integer({ min: 2, max: 60 }) })],
    [6, fc.record({ ...visit, kind: fc.constant('burst'), works: fc.array(work, { minLength: 1, maxLength: 6 }) })],
    [4, fc.record({
      ...visit, kind: fc.constant('leaver'), work, body: fc.oneof(fc.constant(0), ms(3_000)), bytes: ms(300), after: ms(150),
      reset: fc.boolean()
    }, { requiredKeys: ['to', 'at', 'http', 'kind', 'work', 'body', 'after', 'reset'] })],
    [1, fc.record({ ...visit, kind: fc.constant('reader'), work: largeWork, pause: ms(20) })],
    [3, fc.record({
      ...visit, kind: fc.constant('uploader'), work, parts: fc.integer({ min: 1, max: 12 }), part: fc.integer({ min: 1, max: 20_000 }),
      pause: ms(60)
    })],
    [2, fc.record({ ...visit, kind: fc.constant('prober'), pause: fc.integer({ min: 10, max: 60 }) })]
  ]
  if (protocol !== 'h2c') {
    const pause = fc.integer({ min: 5, max: 60 })
    clients.push([2, fc.record({ ...http1, kind: fc.constant('half'), bytes: ms(HEAD) })])
    clients.push([2, fc.record({ ...http1, kind: fc.constant('websocket'), pause, answersClose: fc.boolean() })])
  }
  return fc.oneof(...clients.map(([weight, arbitrary]) => ({ weight, arbitrary })))
}

const first: Arbitrary<Trigger> = fc.record({
  at: ms(300),
  kind: fc.oneof(
    { weight: 6, arbitrary: fc.constant('SIGTERM') },
    { weight: 4, arbitrary: fc.constantFrom('SIGINT', 'SIGHUP', 'SIGQUIT', 'close', 'shutdown', 'throw', 'reject') }
  )
})

const second: Arbitrary<Trigger> = fc.record({
  at: ms(900), kind: fc.constantFrom('SIGTERM', 'SIGTERM', 'SIGINT', 'close', 'shutdown', 'throw', 'reject')
})

/** Closes one of several instances; the process goes on with the others. */
function single (count: number): Arbitrary<Trigger[]> {
  if (count === 1) return fc.constant([])
  return fc.array(fc.record({ at: ms(300), kind: fc.constantFrom('close', 'shutdown'), only: fc.nat(count - 1) }), { maxLength: 1 })
}

export const scenario: Arbitrary<Scenario> = fc.record({
  protocol: fc.constantFrom<Protocol>('http', 'http', 'http', 'https', 'h2c', 'h2'),
  count: fc.constantFrom(1, 1, 1, 2, 3)
}).chain(({ protocol, count }) => fc.record({
  protocol: fc.constant(protocol),
  isInherited: fc.constantFrom(false, false, false, true),
  instances: fc.array(instance, { minLength: count, maxLength: count }),
  clients: fc.array(client(protocol, count), { minLength: 1, maxLength: 8 }),
  triggers: fc.tuple(first, fc.array(second, { maxLength: 1 }), single(count)).map(([one, others, singles]) => others.concat(one, singles))
}))
