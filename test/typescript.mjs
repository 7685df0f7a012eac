// node --import=./test/typescript.mjs runs TypeScript. The tests start hundreds of processes, which take half as long this way
// as with tsx.

import * as module from 'node:module'
import { load } from './typescript-load.mjs'

// Node.js 20 reads these certificates at each start, which takes longer than the rest of it. No test needs them.
delete process.env.NODE_EXTRA_CA_CERTS

if (module.registerHooks) module.registerHooks({ load })
else {
  // Node.js 20 has no hooks within the thread. Their own thread runs no file that is covered, so it needs not report its coverage.
  const { NODE_V8_COVERAGE: directory } = process.env
  delete process.env.NODE_V8_COVERAGE
  module.register('./typescript-load.mjs', import.meta.url)
  if (directory !== undefined) process.env.NODE_V8_COVERAGE = directory
}
