import Fastify from 'fastify'
import gracefulPlugin, { gracefulPlugin as named, type GracefulOptions, type ShutdownReport } from 'fastify-graceful'
import { testShutdown, type ClientResponse, type HeldRequest } from 'fastify-graceful/testing'
import gracefulMetrics, { gracefulMetrics as namedMetrics, type GracefulMetricsOptions } from 'fastify-graceful/prometheus'
import { Registry } from 'prom-client'

const options: GracefulOptions = { drainTimeout: 1_000, signals: ['SIGTERM'] }

export async function main (): Promise<void> {
  const fastify = Fastify()
  await fastify.register(gracefulPlugin, options)
  await fastify.register(named, options)
  const metrics: GracefulMetricsOptions = { register: new Registry(), prefix: 'my_' }
  await fastify.register(gracefulMetrics, metrics)
  await fastify.register(namedMetrics)
  // @ts-expect-error not a registry
  await fastify.register(gracefulMetrics, { register: 1 })
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
