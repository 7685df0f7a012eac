// `npm run simulate`: Kubernetes' pod termination, where the real thing cannot run. Endpoint removal reaches the proxies
// late and unevenly, SIGTERM comes at once, SIGKILL when the grace period is over. Which numbers lose nothing?

import {
  leastOfEach, lossesByDelay, lossesByDrain, lossesByGrace, lossesByPods, lossesByPreStop, MANY, MODEL, RECOMMENDED
} from './simulation/tables.ts'

const { pods, rate, proxies, connections, longest, removal } = MODEL
console.log(`${pods} pods unless said otherwise, ${rate} requests a second to each by way of ${proxies} proxies, ${connections} open connections to each pod,
the longest request takes ${longest / 1_000} s, endpoint removal reaches the last proxy within ${removal / 1_000} s. No retries.

Lost requests by shutdownDelay and by what the removal takes:

${lossesByDelay()}

Lost requests of ${MANY} pods by drainTimeout and by what the longest request takes:

${lossesByDrain()}

By the grace period:

${lossesByGrace()}

Lost requests with a preStop, which open connections do not notice:

${lossesByPreStop()}

Lost requests and time by how many pods are replaced at once:

${lossesByPods()}

The least that loses nothing, in milliseconds: by the worst case (and by trying, with ${MANY} pods):

${leastOfEach()}
`)
const { options, grace } = RECOMMENDED
console.log(`Recommended: ${JSON.stringify(options)}, terminationGracePeriodSeconds ${grace / 1_000}`)
