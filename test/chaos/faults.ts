// Faults, each in a copy of the built package: the invariants have to find them. A fault is made by replacing a string of dist/index.js.

import type { InvariantName } from './invariants.ts'
import type { Scenario } from './scenario.ts'

export interface Fault {
  what: string
  /** The string, which must occur once, and what replaces it. */
  change: [from: string, to: string]
  /** The invariant that has to find it. */
  violates: InvariantName
  /** A scenario that shows it, if random ones rarely do. */
  scenario?: Scenario
}

const instance = {
  shutdownDelay: 0, drainTimeout: 150, shutdownTimeout: 1_000, hooks: [], preClose: [], onClose: [], callbacks: [], tasks: []
}

/** A handler that hangs, and a pipelined one that goes on after its answer. */
const GOES_ON: Scenario = {
  protocol: 'http',
  instances: [{ ...instance, callbacks: [{ ms: 10, ends: 'well', when: 'end' }] }],
  clients: [{
    to: 0, at: 0, http: 1, kind: 'burst',
    works: [{ answers: 'return', ms: 5_000, after: 0, size: 10 }, { answers: 'reply', ms: 0, after: 2_000, size: 10 }]
  }],
  triggers: [{ at: 100, kind: 'SIGTERM' }]
}

/** A response whose head says Connection: close, and a request behind it. */
const BEHIND_LAST: Scenario = {
  protocol: 'http',
  instances: [{ ...instance, shutdownDelay: 300 }],
  clients: [{
    to: 0, at: 100, http: 1, kind: 'burst',
    works: [{ answers: 'raw', ms: 100, after: 0, size: 10 }, { answers: 'return', ms: 10, after: 0, size: 10 }]
  }],
  triggers: [{ at: 0, kind: 'SIGTERM' }]
}

/** The same signal twice, while a callback hangs. */
const TWICE: Scenario = {
  protocol: 'http',
  instances: [{ ...instance, shutdownTimeout: 5_000, callbacks: [{ ms: 0, ends: 'never', when: 'end' }] }],
  clients: [{ to: 0, at: 0, http: 1, kind: 'half', bytes: 0 }],
  triggers: [{ at: 50, kind: 'SIGTERM' }, { at: 600, kind: 'SIGTERM' }]
}

/** One signal and a copy of it. */
const COPY: Scenario = { ...TWICE, triggers: [{ at: 50, kind: 'SIGTERM' }, { at: 70, kind: 'SIGTERM' }] }

const CALLBACK_HANGS: Scenario = {
  ...TWICE,
  instances: [{ ...instance, shutdownTimeout: 5_000, callbacks: [{ ms: 0, ends: 'never', when: 'end', timeout: 100 }] }],
  triggers: [{ at: 50, kind: 'SIGTERM' }]
}

const HANDLER_HANGS: Scenario = {
  ...CALLBACK_HANGS,
  instances: [{ ...instance, shutdownTimeout: 5_000 }],
  clients: [{ to: 0, at: 0, http: 1, kind: 'burst', works: [{ answers: 'return', ms: 10_000, after: 0, size: 10 }] }]
}

const SOCKET = { to: 0, at: 0, http: 1, kind: 'websocket', pause: 20, answersClose: true } as const

const SOCKETS: Scenario = {
  protocol: 'h2',
  instances: [{ ...instance, shutdownDelay: 400, spread: 400 }],
  clients: [SOCKET, SOCKET, SOCKET, SOCKET],
  triggers: [{ at: 150, kind: 'SIGTERM' }]
}

/** A request on a connection that was idle as draining started. */
const INHERITED: Scenario = {
  protocol: 'http',
  isInherited: true,
  instances: [{ ...instance, drainTimeout: 500, shutdownTimeout: 2_000 }],
  clients: [
    { to: 0, at: 0, http: 1, kind: 'burst', works: [{ answers: 'return', ms: 350, after: 0, size: 10 }] },
    { to: 0, at: 0, http: 1, kind: 'loop', work: { answers: 'return', ms: 10, after: 0, size: 10 }, pause: 60 }
  ],
  triggers: [{ at: 100, kind: 'SIGTERM' }]
}

/** Short background work that is tracked when the drain is about to end, after its timeout, while clients go on. */
const WORKS_ON: Scenario = {
  protocol: 'http',
  instances: [{
    ...instance, drainTimeout: 100, tasks: Array.from({ length: 20 }, (_, index) => ({ ms: 2, ends: 'well' as const, at: 240 + 3 * index }))
  }],
  clients: [
    { to: 0, at: 0, http: 1, kind: 'loop', work: { answers: 'return', ms: 5, after: 0, size: 10 }, pause: 4 },
    { to: 0, at: 0, http: 1, kind: 'half', bytes: 3 }
  ],
  triggers: [{ at: 50, kind: 'SIGTERM' }]
}

export const FAULTS: readonly Fault[] = [
  {
    what: 'the gate lets everything pass',
    change: ['if (this.#inFlight.counts(exchange)) {', 'if (true) {'],
    violates: 'servesNothingLate'
  },
  {
    what: 'the gate rejects what has arrived in time',
    change: ['if (this.#inFlight.counts(exchange)) {', 'if (this.#inFlight.counts(exchange) && exchange.number % 2 > 0) {'],
    violates: 'rejectsNothingEarly'
  },
  {
    what: 'an answer is lost',
    change: ['onRequest", function gracefulOnRequest(request, reply, done) {', '$& if (phase.current !== "running" && reply.raw.socket) { reply.raw.destroy(); return; }'],
    violates: 'answersWhatItAccepts'
  },
  {
    what: 'a stream that closes late does not count',
    change: ['isActive(this.source) && this.arePromisesAwaited', 'false'],
    violates: 'cleansUpAfterHandlers'
  },
  {
    what: 'the count is not decremented',
    change: ['leave(exchange) {', '$& if (exchange.number === 1) return;'],
    violates: 'countsToZero'
  },
  {
    what: 'a cut is not named',
    change: ['  name(exchange, error, option) {', '$& return;'],
    violates: 'namesWhatItCuts'
  },
  {
    what: 'a cut request gets another status',
    change: ['exchange.answer(error.statusCode, ', 'exchange.answer(502, '],
    violates: 'answersWhatItCuts'
  },
  {
    what: 'requests are cut before drainTimeout',
    change: ['within(end - now(), this.#idle(', 'within(end - drainTimeout / 2 - now(), this.#idle('],
    violates: 'cutsNothingEarly'
  },
  {
    what: 'callbacks run before the drain',
    change: ['await this.#drain();', 'void this.#drain();'],
    violates: 'cleansUpAfterHandlers'
  },
  {
    what: 'the drain does not wait for background work',
    change: ['return this.#tasks.size;', 'return 0;'],
    violates: 'cleansUpAfterHandlers'
  },
  {
    what: 'the drain does not end',
    change: ['within(end - now(), this.#idle(', 'within(end + 9999 - now(), this.#idle('],
    violates: 'endsInTime', scenario: HANDLER_HANGS
  },
  {
    what: 'a callback may hang',
    change: ['await within(limit, end)', 'await within(limit + 9999, end)'],
    violates: 'endsInTime', scenario: CALLBACK_HANGS
  },
  {
    what: 'there is no delay',
    change: ['const delays = max > 0 && isServing;', 'const delays = false;'],
    violates: 'delaysAsAsked'
  },
  {
    what: 'connections are refused while it serves',
    change: ['disableKeepAlive() {\n    this.noteArrivals();', '$& this.stopListening();'],
    violates: 'resetsNothingEarly'
  },
  {
    what: 'connections are kept alive',
    change: ['if (this.hasBegun || this.#saysClose) return;', 'return;'],
    violates: 'closesConnections'
  },
  {
    what: 'the exit code is always 0',
    change: ['exitCode: isClean ? 0 : 1', 'exitCode: 0'],
    violates: 'exitsTruly'
  },
  {
    what: 'the exit code is always 1',
    change: ['exitCode: isClean ? 0 : 1', 'exitCode: 1'],
    violates: 'exitsTruly'
  },
  {
    what: 'completed requests are not counted',
    change: ['if (isCompleted(exchange)) this.completed++;', ''],
    violates: 'reportsTruly'
  },
  {
    what: 'rejected requests are not counted',
    change: ['this.refused++;', ';'],
    violates: 'reportsTruly'
  },
  {
    what: 'callbacks run in reverse order',
    change: ['const entries = this.#of("end");', 'const entries = this.#of("end").reverse();'],
    violates: 'keepsOrder'
  },
  {
    what: 'a warning is printed',
    change: ['async #run(given) {', '$& process.emitWarning("not meant");'],
    violates: 'saysNothingElse'
  },
  {
    what: 'it is ready during the shutdown',
    change: ['return [503, { ready: false, reason: "shutting_down" }]', 'return [200, { ready: true }]'],
    violates: 'probesTruly'
  },
  {
    what: 'a copy of a signal forces the exit',
    change: ['var SIGNAL_COPY = 200;', 'var SIGNAL_COPY = -1;'],
    violates: 'knowsCopies', scenario: COPY
  },
  {
    what: 'a second signal is ignored',
    change: ['var SIGNAL_COPY = 200;', 'var SIGNAL_COPY = 1e6;'],
    violates: 'knowsCopies', scenario: TWICE
  },
  {
    what: 'WebSockets are closed with another code',
    change: ['var GOING_AWAY = 1001;', 'var GOING_AWAY = 1008;'],
    violates: 'closesWebSockets'
  },
  {
    what: 'WebSockets are all told at once',
    change: ['due += rest > SPREAD_INTERVAL ? ', 'due += false ? '],
    violates: 'spreadsGoodbyes', scenario: SOCKETS
  },
  {
    what: 'an inherited listener is treated like its own',
    change: ['.isListenerShared)', '.isListenerShared && false)'],
    violates: 'rejectsNothingEarly', scenario: INHERITED
  },
  {
    what: 'the drain waits for nothing',
    change: ['return result !== TIMED_OUT;', 'await sleep(500); $&'],
    violates: 'drainsNoLongerThanNeeded'
  },
  // What chaos has found, see docs/chaos.md; the rest of it shows only on an idle machine, and has tests of its own.
  {
    what: 'a handler that goes on after its queued answer is not named',
    change: ['  cutRest(error) {', '$& return;'],
    violates: 'cleansUpAfterHandlers', scenario: GOES_ON
  },
  {
    what: 'what follows the last response is handled',
    change: ['if (connection?.isEnding === true) this.#leaveUnanswered(exchange);', ''],
    violates: 'answersWhatItAccepts', scenario: BEHIND_LAST
  },
  {
    what: 'the drain waits for silence again and again',
    change: ['Math.min(now(), drainEnd) + QUIET.most', 'now() + QUIET.most'],
    violates: 'endsInTime', scenario: WORKS_ON
  }
]

/** Makes a fault. Throws if the built package has changed so that it is no longer possible. */
export function inject ({ what, change: [from, to] }: Fault, source: string): string {
  const parts = source.split(from)
  if (parts.length !== 2) throw new Error(`"${what}": the built package has ${parts.length - 1} times: ${from}`)
  return parts.join(to.replace('$&', from))
}
