// `npm run simulate`: a simulation of pod termination in Kubernetes. Endpoint removal reaches each proxy at a different
// time, SIGTERM is sent at once, and SIGKILL at the end of the grace period. It shows which settings lose no request.

import {
  durationByQuiet, leastOfEach, lossesByDelay, lossesByDrain, lossesByGrace, lossesByPods, lossesByPreStop, lossesByQuiet, MANY, MODEL,
  RECOMMENDED
} from './simulation/tables.ts'

const { pods, rate, proxies, connections, longest, removal } = MODEL
console.log(`Unless a table says otherwise: ${pods} pods, ${rate} requests a second to each pod through ${proxies} proxies, ${connections} open connections
to each pod. The longest request takes ${longest / 1_000} s. Endpoint removal reaches the last proxy within ${removal / 1_000} s. No retries.

Lost requests by shutdownDelay and by how long the removal takes:

${lossesByDelay()}

Lost requests of ${MANY} pods (and the median delay) with a delay that ends when no request has arrived for a while:

${lossesByQuiet()}

Duration of a rollout, one pod at a time:

${durationByQuiet()}

Lost requests of ${MANY} pods by drainTimeout and by the length of the longest request:

${lossesByDrain()}

What SIGKILL ends, by the grace period:

${lossesByGrace()}

Lost requests with a preStop hook, which does not affect open connections:

${lossesByPreStop()}

Lost requests and duration by how many pods are replaced at once:

${lossesByPods()}

The smallest values that lose nothing, in milliseconds: computed for the worst case (and found by simulation, with ${MANY} pods):

${leastOfEach()}
`)
const { options, grace } = RECOMMENDED
console.log(`Recommended: ${JSON.stringify(options)}, terminationGracePeriodSeconds ${grace / 1_000}`)
