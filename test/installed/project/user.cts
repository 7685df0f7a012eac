import Fastify from 'fastify'
import gracefulPlugin, { gracefulPlugin as named, type GracefulOptions, type ShutdownReport } from 'fastify-graceful'

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
