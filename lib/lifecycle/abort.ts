// Abort signals for user code.

import { setMaxListeners } from 'node:events'
import { attempt } from '../values.ts'

/** Its signal takes any number of listeners. Each event stream may add one, and Node would warn of a leak at the eleventh. */
export function createAbortController (): AbortController {
  const controller = new AbortController()
  // It throws if a test environment, such as jsdom, has replaced AbortController.
  attempt(() => { setMaxListeners(0, controller.signal) })
  return controller
}
