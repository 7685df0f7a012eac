// The compared packages, each set up as its README says, with the features that affect requests enabled. A process loads one.

import type { FastifyInstance } from 'fastify'
import type { Server } from 'node:http'
import { subscribe } from 'node:diagnostics_channel'

export interface Subject {
  /** Runs before the routes are registered. */
  register?: (app: FastifyInstance) => Promise<void>
  /** Runs once the server listens. Stops the process on SIGTERM unless the package does. */
  attach?: (app: FastifyInstance) => Promise<void>
}

/** Loads by a name that the compiler does not resolve, because the packed package, beside the compiled bench, is measured. */
async function load<T> (name: string): Promise<T> {
  return await import(name) as T
}

interface PluginModule {
  default: Parameters<FastifyInstance['register']>[0]
}

const closeOnSignal: Subject = {
  attach: async app => { process.once('SIGTERM', () => { void app.close() }) }
}

const plugin = (name: string, options: object = {}): Subject => ({
  register: async app => { await app.register((await load<PluginModule>(name)).default, options) }
})

/** Each limit of its README, too high to be reached here, so that it checks each request and rejects none. */
const PRESSURE = { maxEventLoopDelay: 60_000, maxHeapUsedBytes: 8e9, maxRssBytes: 8e9, maxEventLoopUtilization: 1 }

export const OURS = 'fastify-graceful'
/** The plugin with a subscriber on each of its diagnostics channels, which costs a request nothing: they tell of shutdowns only. */
export const WATCHED = `${OURS}, with subscribers`
export const BARE = 'bare Fastify'
/** Two hooks that do nothing: the lowest possible cost of a plugin that counts requests. */
export const PAIR = 'empty pair of hooks'

export const SUBJECTS: Readonly<Record<string, Subject>> = {
  [BARE]: closeOnSignal,
  [PAIR]: {
    ...closeOnSignal,
    register: async app => {
      app.addHook('onRequest', (_request, _reply, done) => { done() })
      app.addHook('onResponse', (_request, _reply, done) => { done() })
    }
  },
  [OURS]: plugin(OURS),
  [WATCHED]: {
    register: async app => {
      for (const event of ['phase', 'refused', 'cut', 'callback', 'report']) subscribe(`fastify-graceful:${event}`, () => {})
      await plugin(OURS).register?.(app)
    }
  },
  '@godaddy/terminus': {
    attach: async ({ server }) => {
      const { createTerminus } = await load<{ createTerminus: (server: Server, options: object) => void }>('@godaddy/terminus')
      createTerminus(server, { signals: ['SIGTERM'], useExit0: true, healthChecks: { '/health': async () => {} } })
    }
  },
  'http-terminator': {
    attach: async ({ server }) => {
      const { createHttpTerminator } = await load<{ createHttpTerminator: (options: object) => { terminate: () => Promise<void> } }>('http-terminator')
      const { terminate } = createHttpTerminator({ server })
      process.once('SIGTERM', () => { void terminate().then(() => process.exit()) })
    }
  },
  'http-graceful-shutdown': {
    attach: async ({ server }) => {
      const { default: gracefulShutdown } = await load<{ default: (server: Server) => void }>('http-graceful-shutdown')
      gracefulShutdown(server)
    }
  },
  'fastify-graceful-shutdown': plugin('fastify-graceful-shutdown'),
  '@fastify/under-pressure': { ...closeOnSignal, ...plugin('@fastify/under-pressure', PRESSURE) }
}
