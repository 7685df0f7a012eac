// A reporter for node:test: a line of JSON for each test that has ended.

import type { TestEvent } from './results.ts'

/** The events of node:test that are used here, as far as they are used. */
interface Event {
  type: string
  data: { name: string, nesting: number, details?: { type?: string, error?: { failureType?: string, message: string, cause?: unknown } } }
}

export default async function * report (source: AsyncIterable<Event>): AsyncGenerator<string> {
  // The names of the tests that have started and not ended, outermost first.
  const path: string[] = []
  // Once nothing keeps the process alive, node:test fails all tests that are still to run. A test that waits in vain is to
  // fail alone, by its time limit.
  const alive = setInterval(() => {}, 60_000).unref()
  let running = 0
  for await (const { type, data } of source) {
    if (type === 'test:dequeue' && ++running === 1) alive.ref()
    if ((type === 'test:pass' || type === 'test:fail') && --running === 0) alive.unref()
    if (type === 'test:start') path.splice(data.nesting, Infinity, data.name)
    if (type !== 'test:pass' && type !== 'test:fail') continue
    const error = data.details?.error
    // A test that fails only because a test within it does is not told of twice.
    if (error?.failureType === 'subtestsFailed') continue
    const event: TestEvent = { test: [...path.slice(0, data.nesting), data.name].join(' > '), passed: type === 'test:pass' }
    if (error !== undefined) event.error = describe(error)
    yield `${JSON.stringify(event)}\n`
  }
}

function describe ({ message, cause }: { message: string, cause?: unknown }): string {
  return cause instanceof Error ? cause.stack ?? cause.message : message
}
