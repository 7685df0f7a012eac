// node --import=./test/typescript.mjs runs TypeScript. The tests start hundreds of processes, which take half as long this way
// as with tsx.

import * as module from 'node:module'
import { load } from './typescript-load.mjs'

// Node.js 20 has no hooks within the thread.
if (module.registerHooks) module.registerHooks({ load })
else module.register('./typescript-load.mjs', import.meta.url)
