// Who is compared: each set up as its README says, with what touches requests turned on.

import type { FastifyInstance } from 'fastify'
import type { Server } from 'node:http'

export interface Subject {
  /** Before the routes. */
  register?: (app: FastifyInstance) => Promise<void>
  /** Once it listens. What stops the process as SIGTERM comes, where the package itself does not. */
  attach?: (app: FastifyInstance) => Promise<void>
}

/** By a name that the compiler does not look up: what is measured is the packed package, beside the compiled bench. */
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

/** Each limit that its README names, at a height that nothing reaches here: each request is looked at, none is turned away. */
const PRESSURE = { maxEventLoopDelay: 60_000, maxHeapUsedBytes: 8e9, maxRssBytes: 8e9, maxEventLoopUtilization: 1 }

/**
 * Loads all that is compared, whoever is measured. V8 optimizes code by the shapes of objects that it has met there: a
 * process that has loaded less is some percent faster, whether what it has not loaded would ever run or not.
 */
export async function loadAll (): Promise<void> {
  for (const name of Object.keys(SUBJECTS)) {
    if (name !== BARE && name !== PAIR) await load(name)
  }
}

export const OURS = 'fastify-graceful'
export const BARE = 'bare Fastify'
/** Two hooks that do nothing: the least that a plugin which counts requests can cost. */
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
