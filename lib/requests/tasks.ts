// Background work that the drain also waits for.

import type { TaskInFlight } from '../../types/index.ts'
import { now } from '../clock.ts'
import { TrackInvalidError } from '../errors.ts'
import { nameOf, show, toError } from '../values.ts'
import { isThenable, observeThenable } from './thenable.ts'

type Work = (signal: AbortSignal | undefined) => unknown

interface Task {
  name: string
  since: number
}

export class Tasks {
  readonly #tasks = new Set<Task>()
  readonly #onError: (name: string, error: Error) => void
  #whenIdle: (() => void) | undefined
  /** Called when work has ended; set only while draining. */
  onEnd: ((task: object, entry: TaskInFlight) => void) | undefined

  /** @param onError is called when work fails */
  constructor (onError: (name: string, error: Error) => void) {
    this.#onError = onError
  }

  get count (): number {
    return this.#tasks.size
  }

  /**
   * A plain promise is observed directly. `then` of any other thenable is called only by its owner. A function is called with the
   * signal, and its result is tracked.
   */
  track (work: unknown, name: unknown, signal?: AbortSignal): unknown {
    const isWork = typeof work === 'function' && !isThenable(work)
    const promise = isWork ? new Promise(resolve => { resolve((work as Work)(signal)) }) : work
    const task: Task = { name: nameOf(name), since: now() }
    const done = () => {
      this.#tasks.delete(task)
      this.onEnd?.(task, describe(task))
      if (this.#tasks.size === 0) this.#whenIdle?.()
    }
    const failed = (thrown: unknown) => {
      this.#onError(task.name, toError(thrown))
      done()
    }
    if (!isThenable(promise) || !observeThenable(promise, { fulfilled: done, rejected: failed })) throw new TrackInvalidError(show(promise))
    this.#tasks.add(task)
    return promise
  }

  list (): TaskInFlight[] {
    return Array.from(this.#tasks, describe)
  }

  /** Each with its identity. */
  * entries (): Generator<[object, TaskInFlight]> {
    for (const task of this.#tasks) yield [task, describe(task)]
  }

  /** Resolves when no work is left. */
  async idle (): Promise<void> {
    if (this.#tasks.size > 0) await new Promise<void>(resolve => { this.#whenIdle = resolve })
  }
}

function describe ({ name, since }: Task): TaskInFlight {
  return { kind: 'task', name, age: Math.round(now() - since) }
}
