import Fastify from 'fastify'
import gracefulPlugin, { gracefulPlugin as named, type GracefulOptions, type ShutdownReport } from 'fastify-graceful'
import { testShutdown, type ClientResponse, type HeldRequest } from 'fastify-graceful/testing'

const options: GracefulOptions = { drainTimeout: 1_000, signals: ['SIGTERM'] }

export async function main (): Promise<void> {
  const fastify = Fastify()
  await fastify.register(gracefulPlugin, options)
  await fastify.register(named, options)
  const count: number = fastify.inFlightRequests
  const report: ShutdownReport = await fastify.gracefulShutdown.shutdown()
  // @ts-expect-error a misspelt option
  await fastify.register(gracefulPlugin, { drainTimeOut: 1 })
  fastify.get('/', { config: { gracefulShutdown: { writeTimeout: false } } }, async () => [count, report.exitCode])
}

export async function testDeploy (): Promise<ShutdownReport> {
  const fastify = Fastify({ https: {} })
  await fastify.register(gracefulPlugin, options)
  const shutdown = await testShutdown(fastify)
  const held: HeldRequest = await shutdown.hold('/', { method: 'POST', body: 'text' })
  shutdown.signal('SIGTERM')
  // @ts-expect-error no phase
  await shutdown.reached('drained')
  const { status, error }: ClientResponse = await held.release()
  if (status === undefined) throw new Error(error)
  return await shutdown.report
}
