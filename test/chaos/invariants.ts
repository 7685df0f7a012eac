// What must be true of every run. Each invariant says what is wrong, with the facts. Only bounds of time allow for a busy machine.

import type { Facts } from './facts.ts'
import { answersWhatItAccepts, answersWhatItCuts, probesTruly, rejectsNothingEarly, servesNothingLate } from './model/answers.ts'
import { closesConnections, closesWebSockets, resetsNothingEarly, spreadsGoodbyes } from './model/connections.ts'
import { cleansUpAfterHandlers, countsToZero, cutsNothingEarly, namesWhatItCuts } from './model/cuts.ts'
import { exitsTruly, keepsOrder, reportsTruly, saysNothingElse } from './model/outcome.ts'
import { delaysAsAsked, drainsNoLongerThanNeeded, endsInTime, knowsCopies } from './model/times.ts'

type Invariant = (facts: Facts) => Iterable<string>

export const INVARIANTS = {
  answersWhatItAccepts, answersWhatItCuts, servesNothingLate, rejectsNothingEarly, resetsNothingEarly, cutsNothingEarly, namesWhatItCuts,
  cleansUpAfterHandlers, countsToZero, endsInTime, delaysAsAsked, exitsTruly, reportsTruly, keepsOrder, saysNothingElse, probesTruly,
  closesConnections, knowsCopies, closesWebSockets, spreadsGoodbyes, drainsNoLongerThanNeeded
} satisfies Record<string, Invariant>

export type InvariantName = keyof typeof INVARIANTS

/** What is wrong with a run, by invariant. */
export function violations (facts: Facts): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const [name, invariant] of Object.entries(INVARIANTS)) {
    const wrong = [...invariant(facts)]
    if (wrong.length > 0) found.set(name, wrong)
  }
  return found
}
