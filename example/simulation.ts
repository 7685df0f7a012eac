// `npm run simulate`: Kubernetes' pod termination, where the real thing cannot run. Endpoint removal reaches the proxies
// late and unevenly, SIGTERM comes at once, SIGKILL when the grace period is over. Which numbers lose nothing?

import { leastDelay, lossesByDelay, lossesByPods, MODEL, PROPAGATION, RECOMMENDED } from './simulation/tables.ts'

console.log(`Lost requests, ${MODEL.pods} pods, ${MODEL.rate} requests a second each, ${MODEL.proxies} proxies:\n\n${lossesByDelay()}\n`)
console.log(`Endpoint removal within 8 s:\n\n${lossesByPods()}\n`)
for (const most of PROPAGATION) console.log(`Removal within ${most} s: shutdownDelay of at least ${leastDelay(most * 1_000)} ms`)
const { options, grace } = RECOMMENDED
console.log(`Recommended: ${JSON.stringify(options)}, terminationGracePeriodSeconds ${grace / 1_000}`)
