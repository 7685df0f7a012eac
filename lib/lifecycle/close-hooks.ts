// preClose and onClose hooks. Plugins end event streams and WebSockets in preClose hooks, and Fastify runs them while it still
// listens. With a drain before Fastify's close, they must run as the drain starts: otherwise it would wait for these streams until
// drainTimeout. onClose hooks run when Fastify closes, and wait for the drain, whatever closes it.

import type { FastifyError, FastifyInstance } from 'fastify'
import type { AddHook } from '../map-hooks.ts'
import type { Shutdown } from './shutdown.ts'
import { wholeTurn } from '../clock.ts'
import { Deferred } from '../deferred.ts'
import { attempt, nameOf, toError } from '../values.ts'

type Done = (error?: Error | null) => void
type Run = () => Promise<void>
type Hook = (this: FastifyInstance, ...args: unknown[]) => unknown
type OnClose = (this: FastifyInstance, hook: unknown) => FastifyInstance

export class CloseHooks {
  readonly #fastify: FastifyInstance
  readonly #contexts = new Map<FastifyInstance, Context>()
  readonly #root: Context = { hooks: [], children: [] }
  readonly #onError: (hook: string, error: Error) => void
  readonly #running = new Set<string>()
  /** The errors of hooks, by what they have thrown. */
  readonly #errors = new Map<unknown, Error>()
  readonly #abandoned = new Deferred<void>()
  /** The shutdown that the hooks belong to. */
  shutdown: Shutdown | undefined
  /** The run of all preClose hooks that have been added so far. Kept, because each onClose hook waits for it. */
  #preClosed: Promise<void> | undefined
  /** How many preClose hooks are running. */
  #preClosing = 0

  /**
   * Notes each hook that is added to the instance or its children; those added before cannot be noted.
   * @param onError is called with the description and the error of each hook that fails
   */
  constructor (fastify: FastifyInstance, onError: (hook: string, error: Error) => void) {
    this.#fastify = fastify
    this.#onError = onError
    this.#contexts.set(fastify, this.#root)
    const hooks = this
    const { addHook, onClose } = fastify as unknown as { addHook: AddHook, onClose: OnClose }
    const noting: AddHook = function (name, hook) {
      if (name !== 'preClose' || typeof hook !== 'function') return addHook.call(this, name, hook)
      const run = hooks.#once(this, hook as Hook)
      // Fastify may reject the hook.
      const instance = addHook.call(this, name, wrap(hook as Hook, run))
      hooks.#contextOf(this).hooks.push(run)
      hooks.#preClosed = undefined
      return instance
    }
    // Fastify's own handler, which makes it answer everything with 503 and closes the server, must also wait. It is not a hook:
    // hooks come from Fastify's addHook(), as bound functions.
    const waiting: OnClose = function (hook) {
      if (typeof hook !== 'function') return onClose.call(this, hook)
      const throwLater = (thrown: unknown) => { process.nextTick(() => { throw thrown }) }
      const run = async () => { await call(hook as Hook, [this].slice(0, hook.length), hook.length > 1, throwLater) }
      const [, name] = /^bound (.*)/.exec(nameOf(hook.name)) ?? []
      return onClose.call(this, async () => {
        await hooks.shutdown?.beforeClose()
        // Fastify skips those after one that fails.
        await hooks.preClose()
        await (name === undefined ? run() : hooks.#call(hooks.#describe('onClose', name, this), run))
      })
    }
    // Children inherit them.
    Object.assign(fastify, { addHook: noting, onClose: waiting })
    // Fastify runs the hooks of children in the order in which these are made.
    fastify.addHook('onRegister', instance => { this.#contextOf(instance) })
  }

  /** Whether the plugins are loaded and the onReady hooks have run. Fastify tells that only by the error that it throws then. */
  get hasStarted (): boolean {
    let code: unknown
    try {
      // Always fails: before, because the type is empty.
      this.#fastify.addContentTypeParser('', () => {})
    } catch (error) {
      ({ code } = error as FastifyError)
    }
    return code === 'FST_ERR_CTP_INSTANCE_ALREADY_STARTED'
  }

  /** Waits until the instance has started: Fastify's close begins while onReady hooks run, but its preClose hooks run after them. */
  async started (): Promise<void> {
    const ignore = () => {}
    // ready() is in progress; its error goes to the code that has called it.
    if (!this.hasStarted) await (this.#fastify.ready() as PromiseLike<unknown>).then(ignore, ignore)
  }

  get isPreClosing (): boolean {
    return this.#preClosing > 0
  }

  /**
   * Waits until all preClose hooks have run, each once, one after another, also if one fails. The order is Fastify's: those of an
   * instance before those of its children.
   */
  async preClose (): Promise<void> {
    await (this.#preClosed ??= this.#runPreClose())
  }

  async #runPreClose (): Promise<void> {
    for (const run of inOrder(this.#root)) await run().catch(() => {})
  }

  /** Stops waiting for preClose hooks; the later ones start at once. Resolves to the names of those that have not ended then. */
  async abandonPreClose (): Promise<string> {
    for (const run of inOrder(this.#root)) void run().catch(() => {})
    await wholeTurn()
    const { hanging } = this
    this.#abandoned.resolve()
    return hanging
  }

  /** What has been thrown, as an error: the same one that a hook has been reported with. */
  errorOf (thrown: unknown): Error {
    return this.#errors.get(thrown) ?? toError(thrown)
  }

  /** What the close waits for, as far as it is known. */
  get hanging (): string {
    return [...this.#running].map(hook => `the ${hook}`).join(' and ') || 'a hook added before fastify-graceful, or the server'
  }

  /** Returns a function that runs the preClose hook, unless that has been done, and waits for its end. */
  #once (instance: FastifyInstance, hook: Hook): Run {
    let outcome: Promise<void> | undefined
    return async () => {
      const name = this.#describe('preClose', nameOf(hook.name), instance)
      const note = (thrown: unknown) => { this.#onError(name, toError(thrown)) }
      outcome ??= this.#call(name, async () => {
        this.#preClosing++
        await call(hook.bind(instance), [], hook.length === 1, note).finally(() => { this.#preClosing-- })
      })
      await Promise.race([outcome, this.#abandoned.promise])
    }
  }

  async #call (name: string, run: Run): Promise<void> {
    this.#running.add(name)
    try {
      await (this.shutdown?.runInside(run) ?? run())
    } catch (thrown) {
      const error = toError(thrown)
      this.#errors.set(thrown, error)
      this.#onError(name, error)
      // Fastify reads its code, and would hang if that throws.
      throw attempt(() => [(thrown as { code?: unknown } | undefined)?.code]) === undefined ? error : thrown
    } finally {
      this.#running.delete(name)
    }
  }

  /** A plugin that is wrapped in fastify-plugin has no instance of its own. */
  #describe (kind: 'preClose' | 'onClose', name: string, instance: FastifyInstance): string {
    const plugin = instance === this.#fastify ? '' : ` of plugin "${instance.pluginName}"`
    return (name === '' ? `anonymous ${kind} hook` : `${kind} hook "${name}"`) + plugin
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

/** The preClose hooks of one instance, and of its children. */
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

/**
 * Calls a hook with its arguments, to which a callback is added if it takes one.
 * @param late is called with what it throws after it has called back: of an onClose hook, Fastify does not catch that
 */
async function call (
  hook: (...args: unknown[]) => unknown, args: unknown[], takesDone: boolean, late: (thrown: unknown) => void
): Promise<void> {
  if (!takesDone) {
    await hook(...args)
    return
  }
  await new Promise<void>((resolve, reject) => {
    let isDone = false
    const done: Done = error => {
      isDone = true
      if (error) reject(error)
      else resolve()
    }
    try {
      hook(...args, done)
    } catch (thrown) {
      if (isDone) late(thrown)
      else reject(thrown)
    }
  })
}
