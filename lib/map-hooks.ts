// Changes the hooks that other code adds to an instance or its children.

import type { FastifyInstance } from 'fastify'

type Hook = (this: unknown, ...args: any[]) => unknown // oxlint-disable-line no-explicit-any
type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

/** From now on, Fastify gets what `map` returns in place of each hook of that name. */
export function mapHooks (fastify: FastifyInstance, name: string, map: (hook: Hook, instance: FastifyInstance) => unknown): void {
  const { addHook } = fastify as unknown as { addHook: AddHook }
  const mapping: AddHook = function (added, hook) {
    // If it is not a function, Fastify throws.
    return addHook.call(this, added, added === name && typeof hook === 'function' ? map(hook as Hook, this) : hook)
  }
  // Children inherit it.
  Object.assign(fastify, { addHook: mapping })
}
