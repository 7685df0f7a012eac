// The one close-with-grace of the process, and the only file that touches `process`. Two of them would race:
// the first to finish ends the process under the other. So all instances share it, across copies of this
// package, too; it is there only while one of them listens, so that it disturbs nobody's test runner.

import closeWithGrace from 'close-with-grace'
import type { FastifyBaseLogger } from 'fastify'
import type { ProcessEvent, ShutdownReport } from '../types/index.ts'
import { toError } from './errors.ts'
import { PROCESS_EVENTS } from './options.ts'

/** An instance that goes down with the process. */
export interface Member {
  readonly signals: readonly ProcessEvent[]
  readonly shutdownTimeout: number
  readonly log: FastifyBaseLogger
  readonly shutdown: (reason: string, errors: Error[]) => Promise<ShutdownReport>
}

interface Registry {
  readonly members: Set<Member>
  installed: { uninstall: () => void } | undefined
  /** The process goes down: who leaves or joins now changes nothing. */
  exiting: boolean
}

/** Changed whenever Registry or Member is: copies that differ in it do not share. */
const kRegistry = Symbol.for('fastify-graceful.process.1')

const shared = globalThis as { [kRegistry]?: Registry }
const registry: Registry = shared[kRegistry] ??= { members: new Set(), installed: undefined, exiting: false }

/** From now on, this instance shuts down when the process is told to. */
export function join (member: Member): void {
  if (member.signals.length === 0) return
  registry.members.add(member)
  install()
}

/** The instance no longer listens. */
export function leave (member: Member): void {
  if (registry.members.delete(member)) install()
}

/** Listens to what any member wants; they all go down together, for the process does. */
function install (): void {
  if (registry.exiting) return
  registry.installed?.uninstall()
  registry.installed = undefined
  const members = [...registry.members]
  if (members.length === 0) return
  const wanted = new Set(members.flatMap(({ signals }) => signals))
  const logAll = (message: string) => { for (const { log } of members) log.error(message) }
  registry.installed = closeWithGrace({
    // Each member keeps its own deadline; this ends the process where one fails to.
    delay: Math.max(...members.map(({ shutdownTimeout }) => shutdownTimeout)),
    skip: PROCESS_EVENTS.filter(event => !wanted.has(event)),
    logger: false,
    onSecondSignal: signal => { logAll(`Second signal, ${signal}: exiting at once`) },
    onSecondError: error => {
      for (const { log } of members) log.error({ err: error }, 'Uncaught error while shutting down: exiting at once')
    },
    onTimeout: delay => { logAll(`Not shut down within ${delay}ms: exiting`) }
  }, async event => {
    registry.exiting = true
    // Anything may be thrown, undefined too. A rejection that nobody handled comes the same way.
    const errors = 'err' in event ? [toError(event.err)] : []
    const reason = event.signal ?? (errors.length > 0 ? 'uncaughtException' : 'beforeExit')
    const reports = await Promise.all(members.map(async ({ shutdown }) => await shutdown(reason, errors)))
    // close-with-grace exits with 1 when this rejects.
    if (reports.some(({ exitCode }) => exitCode !== 0)) throw new Error('The shutdown was not clean')
  })
}
