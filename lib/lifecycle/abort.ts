// Abort signals for user code.

import { setMaxListeners } from 'node:events'

/** Its signal takes any number of listeners. Each event stream may add one, and Node would warn of a leak at the eleventh. */
export function createAbortController (): AbortController {
  const controller = new AbortController()
  try {
    setMaxListeners(0, controller.signal)
  } catch {
    // Not Node's own: a test environment such as jsdom has replaced AbortController.
  }
  return controller
}
