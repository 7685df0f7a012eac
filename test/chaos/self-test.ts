// Puts each fault of faults.ts into a copy of the built package, and expects that the invariants find it within some runs.

import type { Stage } from './play.ts'
import type { Scenario } from './scenario.ts'
import * as fc from 'fast-check'
import { check } from './check.ts'
import { scenario as scenarios } from './draw.ts'
import { type Fault, FAULTS, inject } from './faults.ts'
import { INVARIANTS } from './invariants.ts'
import { FIXED_SEED } from './search.ts'

/** How many random runs a fault has to show in, and how many of its own scenario. */
const MOST_RUNS = { random: 200, own: 20 }

type CreateStage = (name: string, change: (source: string) => string) => Promise<Stage>

/** Returns the number of faults that were not found. */
export async function testInvariants (createStage: CreateStage, jobs: number, only = ''): Promise<number> {
  let missed = 0
  for (const name of Object.keys(INVARIANTS)) {
    if (FAULTS.some(({ violates }) => violates === name)) continue
    missed++
    console.log(`NO FAULT for ${name}`)
  }
  for (const [index, fault] of FAULTS.filter(({ what }) => what.includes(only)).entries()) {
    let stage: Stage
    try {
      stage = await createStage(`fault-${index}`, source => inject(fault, source))
    } catch (error) {
      missed++
      console.log(`NOT MADE: ${(error as Error).message}`)
      continue
    }
    const runs = await find(fault, stage, jobs)
    if (runs === undefined) missed++
    console.log(`${runs === undefined ? 'NOT FOUND' : `found by run ${runs}`}: ${fault.what} (${fault.violates})`)
  }
  return missed
}

/** Returns the number of runs. */
async function find (fault: Fault, stage: Stage, jobs: number): Promise<number | undefined> {
  const drawn = fault.scenario === undefined
    ? fc.sample(scenarios, { seed: FIXED_SEED, numRuns: MOST_RUNS.random })
    : Array<Scenario>(MOST_RUNS.own).fill(fault.scenario)
  let next = 0
  let foundBy: number | undefined
  await Promise.all(Array.from({ length: jobs }, async () => {
    while (foundBy === undefined && next < drawn.length) {
      const { found } = await check(stage, drawn[next++] as Scenario)
      if (found.has(fault.violates)) foundBy ??= next
    }
  }))
  return foundBy
}
