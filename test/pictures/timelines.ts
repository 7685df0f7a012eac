// Timelines of runs other than the stored one: their texts have other lengths and positions.

import type { Phase } from '../../index.ts'
import type { Outcome } from '../../example/demo/recording.ts'
import { newRecording } from '../../example/demo/recording.ts'
import { drawTimeline } from '../../example/demo/timeline.ts'

const CALLS = 50

interface Course {
  signalAt: number
  exitAt: number
  /** The phases after running, at intervals of 400 ms. */
  phases: Phase[]
  killed: boolean
}

const COURSES: Record<string, Course> = {
  'long, with losses, ended by force': { signalAt: 2_000, exitAt: 14_000, phases: ['delaying', 'draining'], killed: true },
  'short, without a delay': { signalAt: 900, exitAt: 1_800, phases: ['draining', 'closing', 'closed'], killed: false }
}

export function otherTimelines (): Array<{ path: string, svg: string }> {
  return Object.entries(COURSES).map(([path, course]) => ({ path, svg: draw(course) }))
}

function draw ({ signalAt, exitAt, phases, killed }: Course): string {
  const outcomes: Outcome[] = killed ? ['answered', 'refused', 'turned away', 'lost'] : ['answered', 'refused', 'turned away']
  const load = Array.from({ length: CALLS }, (_, index) => {
    const isLost = killed && index % 10 === 0
    return {
      method: index % 2 === 0 ? 'GET' as const : 'POST' as const,
      start: 10 * index,
      end: isLost ? undefined : signalAt + 10 * index,
      outcome: isLost ? 'lost' as const : 'answered' as const,
      detail: '',
      note: undefined
    }
  })
  return drawTimeline({
    ...newRecording(),
    load,
    knocks: load.map(({ method, end, detail }, index) => ({
      method, end, detail, start: exitAt * index / CALLS, outcome: outcomes[Math.floor(index * outcomes.length / CALLS)]
    })),
    probes: (['/health', '/ready'] as const).flatMap(path => [
      { path, at: 0, status: 200 }, { path, at: signalAt + 50, status: 503 }, { path, at: exitAt - 20, status: undefined }
    ]),
    phases: [{ phase: 'running', at: 0 }, ...phases.map((phase, index) => ({ phase, at: signalAt + 400 * index }))],
    inFlight: CALLS,
    signalAt,
    exitAt,
    exitCode: killed ? null : 0,
    killed
  })
}
