// A process that attacks: NAME, PORT and SIZE are its arguments. It tells its parent when the attack is on, and its counts when it is told
// to stop.

import { once } from 'node:events'
import { ATTACKS } from './attacks.ts'
import { Crowd } from './crowd.ts'

const [name = '', port, size] = process.argv.slice(2)
const attack = ATTACKS[name]
if (attack === undefined) throw new Error(`There is no attack "${name}"`)

const crowd = new Crowd(Number(port), attack.protocol)
const full = once(crowd.events, 'full')
attack.start(crowd, Number(size))
await full
process.send?.('on')
await once(process, 'message')
crowd.stop()
process.send?.(crowd.counts, () => { process.exit() })
