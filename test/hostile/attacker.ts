// A process that attacks; its argument is the name of the attack. It is sent where to, tells when the attack is on, and its counts when it
// is told to stop.

import { once } from 'node:events'
import { ATTACKS } from './attacks.ts'
import { Crowd } from './crowd.ts'

/** What it is sent first. */
export interface Order {
  port: number
  size: number
}

process.on('disconnect', () => { process.exit() })
const attack = ATTACKS[process.argv[2] ?? '']
if (attack === undefined) throw new Error(`There is no attack "${process.argv[2]}"`)

const [{ port, size }] = await once(process, 'message') as [Order]
const crowd = new Crowd(port, attack.protocol)
const full = once(crowd.events, 'full')
attack.start(crowd, size)
await full
process.send?.('on')
await once(process, 'message')
crowd.stop()
process.send?.(crowd.counts, () => { process.exit() })
