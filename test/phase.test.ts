import t from 'tap'
import { PhaseClock } from '../lib/lifecycle/phase.ts'

t.test('moves forward, may skip phases, and aborts its signal once', async t => {
  const phase = new PhaseClock()
  let aborts = 0
  phase.signal.addEventListener('abort', () => { aborts++ })
  t.equal(phase.current, 'running')
  t.notOk(phase.signal.aborted)
  phase.advance('draining')
  t.ok(phase.signal.aborted)
  phase.advance('closed')
  t.equal(phase.current, 'closed')
  t.equal(aborts, 1)
})

t.test('a signal that is first read late has already aborted', async t => {
  const phase = new PhaseClock()
  phase.advance('draining')
  t.ok(phase.signal.aborted)
  t.equal(phase.signal, phase.signal)
})

t.test("works with an AbortController that is not Node's, as in a DOM environment", async t => {
  const { AbortController } = globalThis
  t.teardown(() => { globalThis.AbortController = AbortController })
  let aborts = 0
  class Foreign {
    readonly signal = {}
    abort (): void {
      aborts++
    }
  }
  globalThis.AbortController = Foreign as unknown as typeof AbortController
  const phase = new PhaseClock()
  phase.advance('draining')
  t.equal(phase.current, 'draining')
  t.equal(aborts, 1)
})
