// fastify-graceful/testing. The plugin does not load it, and it does not load the plugin: it uses the controller, which also has the
// list of signals, and the diagnostics channels.

import type { FastifyInstance } from 'fastify'
import type { GracefulShutdown, Phase } from '../../types/index.ts'
import type { testShutdown as TestShutdown } from '../../types/testing.ts'
import { PhaseSkippedError } from '../errors.ts'
import { follow } from '../lifecycle/channels.ts'
import { PHASES } from '../lifecycle/phase.ts'
import { assertValid, kSignals } from '../options.ts'
import { Client } from './client.ts'
import { Hold, Holds } from './holds.ts'

type WithSignals = GracefulShutdown & { readonly [kSignals]?: readonly string[] }

/** See types/testing.ts. */
export const testShutdown: typeof TestShutdown = async given => {
  const { fastify, controller, signals } = await start(given)
  const { server } = fastify
  const client = new Client(server)
  const holds = new Holds(server)
  const opened: Array<() => void> = []
  const reached = new Set<Phase>(['running'])
  const waiting = new Set<() => void>()

  const unfollow = follow(fastify, 'phase', ({ phase }) => {
    reached.add(phase)
    for (const check of waiting) check()
    if (phase !== 'closed') return
    unfollow()
    holds.end()
  })

  return {
    hold: async (path, options) => {
      const hold = new Hold()
      const { response } = client.send(path, options, port => { holds.add(hold, port) })
      await Promise.race([hold.arrival.promise, response])
      return {
        response,
        release: async () => {
          hold.release.resolve()
          return await response
        }
      }
    },
    open: async (path, options) => {
      const { begun, response, leave } = client.send(path, options)
      opened.push(leave)
      await begun
      return { response }
    },
    request: async (path, options) => await client.send(path, options).response,
    signal: name => {
      const names = signals.filter(event => event.startsWith('SIG'))
      assertValid(names.includes(name), 'signal of a test', name, `what the instance listens to: ${names.join(', ') || 'no signal'}`)
      if (controller.phase === 'running') void controller.shutdown(name)
    },
    reached: async phase => {
      assertValid(PHASES.includes(phase), 'phase of a test', phase, `one of ${PHASES.join(', ')}`)
      await new Promise<void>((resolve, reject) => {
        const check = () => {
          if (reached.has(phase)) resolve()
          else if (PHASES.indexOf(controller.phase) > PHASES.indexOf(phase)) reject(new PhaseSkippedError(phase, controller.phase))
          else waiting.add(check)
        }
        check()
      })
    },
    get report () { return controller.wait() },
    close: async () => {
      holds.releaseAll()
      for (const leave of opened) leave()
      controller.skipDelay()
      await fastify.close()
    }
  }
}

/** Makes the instance listen, and returns what a test needs of it. */
async function start (given: unknown) {
  const fastify = (given ?? {}) as FastifyInstance
  // The plugin may not be loaded yet.
  await (fastify as Partial<FastifyInstance>).ready?.()
  const controller = fastify.gracefulShutdown as WithSignals | undefined
  const signals = controller?.[kSignals]
  const name = 'argument of testShutdown()'
  assertValid(controller !== undefined && signals !== undefined, name, given, 'a Fastify instance with fastify-graceful')
  assertValid(controller.phase === 'running', name, given, 'an instance that has not begun to shut down')
  assertValid(speaksHttp1(fastify), name, given, 'an instance that serves HTTP/1.1 over TCP')
  if (!fastify.server.listening) await fastify.listen({ port: 0, host: '127.0.0.1' })
  return { fastify, controller, signals }
}

/** Whether the client of a test can connect to it. */
function speaksHttp1 ({ initialConfig: { http2, https }, server }: FastifyInstance): boolean {
  const isHttp1 = http2 !== true || (typeof https === 'object' && https.allowHTTP1)
  return isHttp1 && typeof server.address() !== 'string'
}
