// Draws runs until one fails, and makes a failing one smaller.

import type { Verdict } from './check.ts'
import type { Scenario } from './scenario.ts'
import * as fc from 'fast-check'
import { describe } from './check.ts'
import { scenario as scenarios } from './draw.ts'

/** The seed of the runs that are the same each time. */
export const FIXED_SEED = 1

/** How many scenarios are tried to make a failing one smaller. */
const MOST_SHRINKS = 60

/** From one seed to the next, after a failure; the other searches have the seeds in between. */
const NEXT_SEED = 1_000_003

type Run = (scenario: Scenario) => Promise<Verdict['found']>

/** The seeds of searches that run at the same time: those that follow the given one; without it, half of them are the same each time. */
export function seedsOf (given: string | undefined, count: number): number[] {
  const fresh = Math.trunc(Math.random() * 0x7fffffff)
  return Array.from({ length: count }, (_, index) => {
    if (given !== undefined) return Number(given) + index
    return (index % 2 === 0 ? FIXED_SEED : fresh) + index
  })
}

/** The scenario with this seed and path. */
export function scenarioOf (seed: number, path: string): Scenario {
  return fc.sample(scenarios, { seed, path, numRuns: 1 })[0] as Scenario
}

/** Returns the number of failures. */
export async function search (run: Run, seed: number, runs: number, keepGoing: boolean): Promise<number> {
  let failed = 0
  let left = runs
  for (let next = seed; left > 0; next += NEXT_SEED) {
    console.log(`seed ${next}: ${left} runs`)
    const result = await fc.check(property(run, next), { seed: next, numRuns: left })
    if (!result.failed) return failed
    failed++
    const { counterexamplePath, errorInstance, counterexample, numRuns } = result
    console.log(`FAILED: --seed ${next} --path ${counterexamplePath}\n${(errorInstance as Error).message}\n${JSON.stringify(counterexample?.[0])}`)
    left -= numRuns
    if (!keepGoing) return failed
  }
  return failed
}

function property (run: Run, seed: number): fc.IAsyncProperty<[Scenario]> {
  let shrinks = 0
  /** What the first failing run has violated: a smaller scenario has to violate one of them. */
  let violated: string[] | undefined
  return fc.asyncProperty(scenarios, async scenario => {
    if (violated !== undefined && ++shrinks > MOST_SHRINKS) return
    const found = await run(scenario)
    if (found.size === 0 || violated?.some(name => found.has(name)) === false) return
    if (violated === undefined) console.log(`seed ${seed}:\n${describe(found)}\n${JSON.stringify(scenario)}\nMaking it smaller…`)
    violated ??= [...found.keys()]
    throw new Error(describe(found))
  })
}
