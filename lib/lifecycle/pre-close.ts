// preClose hooks. Plugins end event streams and WebSockets there, and Fastify runs them while it still listens. With a drain
// before Fastify's close, they must run as the drain starts: otherwise it would wait for these streams until drainTimeout.

import type { FastifyInstance } from 'fastify'
import { toError } from '../values.ts'

type Done = (error?: Error | null) => void
type Run = () => Promise<void>
type Hook = (this: FastifyInstance, done: Done) => unknown
type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

export class PreCloseHooks {
  readonly #contexts = new Map<FastifyInstance, Context>()
  readonly #root: Context
  readonly #onError: (error: Error) => void
  isRunning = false

  /**
   * Notes each preClose hook that is added to the instance or its children; those added before cannot be noted.
   * @param onError is called with the error of each hook that fails
   */
  constructor (fastify: FastifyInstance, onError: (error: Error) => void) {
    this.#onError = onError
    this.#root = { hooks: [], children: [] }
    this.#contexts.set(fastify, this.#root)
    const hooks = this
    const { addHook } = fastify as unknown as { addHook: AddHook }
    const noting: AddHook = function (name, hook) {
      if (name !== 'preClose' || typeof hook !== 'function') return addHook.call(this, name, hook)
      const run = hooks.#once(this, hook as Hook)
      // Fastify may reject the hook.
      const instance = addHook.call(this, name, wrap(hook as Hook, run))
      hooks.#contextOf(this).hooks.push(run)
      return instance
    }
    // Children inherit it.
    Object.assign(fastify, { addHook: noting })
  }

  /** Runs all hooks, one after another, in Fastify's order: those of an instance before those of its children. */
  async run (): Promise<void> {
    this.isRunning = true
    for (const run of inOrder(this.#root)) await run().catch(() => {})
    this.isRunning = false
  }

  /** Returns a function that runs the hook, unless that has been done, and waits for its end. */
  #once (instance: FastifyInstance, hook: Hook): Run {
    let outcome: Promise<void> | undefined
    return async () => {
      outcome ??= call(hook, instance).catch((thrown: unknown) => {
        const error = toError(thrown)
        this.#onError(error)
        throw error
      })
      await outcome
    }
  }

  /** A child's prototype is its parent. */
  #contextOf (instance: FastifyInstance | null): Context {
    // The application has called addHook() on something else, such as a proxy.
    if (instance === null) return this.#root
    const known = this.#contexts.get(instance)
    if (known !== undefined) return known
    const context: Context = { hooks: [], children: [] }
    this.#contexts.set(instance, context)
    this.#contextOf(Object.getPrototypeOf(instance) as FastifyInstance | null).children.push(context)
    return context
  }
}

/** The hooks of one instance, and of its children. */
interface Context {
  readonly hooks: Run[]
  readonly children: Context[]
}

function * inOrder ({ hooks, children }: Context): Generator<Run> {
  yield * hooks
  for (const child of children) yield * inOrder(child)
}

/** The hook that Fastify gets. A proxy, because Fastify looks at the kind of the function and at its number of parameters. */
function wrap (hook: Hook, run: Run): Hook {
  return new Proxy(hook, {
    apply: (_hook, _instance, [done]: [Done?]) => done === undefined ? run() : void run().then(() => { done() }, done)
  })
}

/** Calls a hook as Fastify does. */
async function call (hook: Hook, instance: FastifyInstance): Promise<void> {
  if (hook.length !== 1) {
    await (hook as (this: FastifyInstance) => unknown).call(instance)
    return
  }
  await new Promise<void>((resolve, reject) => {
    hook.call(instance, error => {
      if (error) reject(error)
      else resolve()
    })
  })
}
