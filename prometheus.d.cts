// The types of prometheus.cjs, in the form that every TypeScript version and module setting reads.

import type { FastifyPluginAsync } from 'fastify'
import type * as types from './dist/types/prometheus.js'

declare function gracefulMetrics (...parameters: Parameters<gracefulMetrics.GracefulMetrics>): ReturnType<gracefulMetrics.GracefulMetrics>

declare namespace gracefulMetrics {
  export type GracefulMetrics = FastifyPluginAsync<types.GracefulMetricsOptions>
  export type GracefulMetricsOptions = types.GracefulMetricsOptions

  export const gracefulMetrics: GracefulMetrics
  export { gracefulMetrics as default }
}

export = gracefulMetrics
