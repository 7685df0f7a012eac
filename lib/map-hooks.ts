// Changes the hooks that other code adds to an instance or its children.

import type { FastifyInstance } from 'fastify'
import { mapFunction, type AnyFunction } from './values.ts'

export type AddHook = (this: FastifyInstance, name: string, hook: unknown) => FastifyInstance

/** From now on, Fastify gets what `map` returns in place of each hook of that name. */
export function mapHooks (fastify: FastifyInstance, name: string, map: (hook: AnyFunction) => AnyFunction): void {
  const { addHook } = fastify as unknown as { addHook: AddHook }
  const mapping: AddHook = function (added, hook) {
    return addHook.call(this, added, added === name ? mapFunction(hook, map) : hook)
  }
  // Children inherit it.
  Object.assign(fastify, { addHook: mapping })
}
