// What is compared: each package set up as its README says, with the features on that touch requests. A process loads one.

import type { FastifyInstance } from 'fastify'
import type { Server } from 'node:http'

export interface Subject {
  /** Runs before the routes are registered. */
  register?: (app: FastifyInstance) => Promise<void>
  /** Runs once the server listens. Stops the process on SIGTERM, unless the package does. */
  attach?: (app: FastifyInstance) => Promise<void>
}

/** By a name that the compiler does not resolve: the packed package is measured, which is beside the compiled bench. */
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

/** Each limit of its README, too high to be reached here: it checks each request and rejects none. */
const PRESSURE = { maxEventLoopDelay: 60_000, maxHeapUsedBytes: 8e9, maxRssBytes: 8e9, maxEventLoopUtilization: 1 }

export const OURS = 'fastify-graceful'
export const BARE = 'bare Fastify'
/** Two hooks that do nothing: the least that a plugin that counts requests can cost. */
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
