// One run, and what is wrong with it.

import type { Stage } from './play.ts'
import type { Scenario } from './scenario.ts'
import { Facts } from './facts.ts'
import { violations } from './invariants.ts'
import { play } from './play.ts'

export interface Verdict {
  facts: Facts
  /** What is wrong, by invariant; empty if nothing is. */
  found: Map<string, string[]>
}

export async function check (stage: Stage, scenario: Scenario): Promise<Verdict> {
  const facts = new Facts(scenario, await play(stage, scenario))
  return { facts, found: violations(facts) }
}

export function describe (found: Verdict['found']): string {
  return [...found].map(([name, wrong]) => `${name}:\n${wrong.slice(0, 5).map(text => `  ${text}`).join('\n')}`).join('\n')
}

/** Everything that a run has shown, in the order of time. */
export function tellAll ({ facts: { scenario, events, seen }, found }: Verdict): string {
  const answers = seen.answers.map(answer => ({ t: answer.endedAt, ...answer, body: answer.body?.slice(0, 200) }))
  const lines = [...events, ...answers, ...seen.webSockets.map(visit => ({ t: visit.endedAt, ...visit })), ...seen.signals]
  const text = lines.sort((a, b) => a.t - b.t).map(line => JSON.stringify(line))
  const rest = [seen.exit, seen.lags, ...seen.log.filter(({ level }) => level > 30)].map(line => JSON.stringify(line))
  return [JSON.stringify(scenario), describe(found), ...text, ...rest, seen.stderr].join('\n')
}
