// Background work that the drain waits for, too.

import type { TaskInFlight } from '../../types/index.ts'
import { now } from '../clock.ts'
import { TrackInvalidError } from '../errors.ts'
import { nameOf, show, toError } from '../values.ts'
import { isPlainPromise, isThenable, observeNextThen, observePromise } from './thenable.ts'

interface Task {
  name: string
  since: number
}

export class Tasks {
  readonly #tasks = new Set<Task>()
  readonly #onError: (name: string, error: Error) => void
  #whenIdle: (() => void) | undefined

  /** @param onError is told of work that fails */
  constructor (onError: (name: string, error: Error) => void) {
    this.#onError = onError
  }

  get count (): number {
    return this.#tasks.size
  }

  /** A plain promise is watched. `then` of any other thenable is called by its owner alone. */
  track<T extends PromiseLike<unknown>> (promise: T, name: unknown): T {
    const task: Task = { name: nameOf(name), since: now() }
    const done = () => {
      this.#tasks.delete(task)
      if (this.#tasks.size === 0) this.#whenIdle?.()
    }
    const failed = (thrown: unknown) => {
      this.#onError(task.name, toError(thrown))
      done()
    }
    try {
      if (!isThenable(promise)) throw new TypeError('no thenable')
      if (isPlainPromise(promise)) observePromise(promise, done, failed)
      else observeNextThen(promise, done, failed)
    } catch {
      throw new TrackInvalidError(show(promise))
    }
    this.#tasks.add(task)
    return promise
  }

  list (): TaskInFlight[] {
    return [...this.entries()].map(([, entry]) => entry)
  }

  /** Each with what it is known by. */
  * entries (): Generator<[object, TaskInFlight]> {
    for (const task of this.#tasks) yield [task, { kind: 'task', name: task.name, age: Math.round(now() - task.since) }]
  }

  /** Resolves once there is none. */
  async idle (): Promise<void> {
    if (this.#tasks.size > 0) await new Promise<void>(resolve => { this.#whenIdle = resolve })
  }
}
