// The public types of the subpath `fastify-graceful/prometheus`.

import type { OpenMetricsContentType, Registry } from 'prom-client'

/** Options of the metrics. */
export interface GracefulMetricsOptions {
  /**
   * The registry to which the metrics are added. Several instances in a process need one registry each, or one prefix each.
   * Throws `FST_ERR_GRACEFUL_OPTION_INVALID` if it already has metrics with the same prefix. Default: prom-client's global registry.
   */
  register?: Registry | Registry<OpenMetricsContentType>
  /** The start of each metric's name: letters, digits and underscores, first a letter or underscore. Default: `fastify_graceful_`. */
  prefix?: string
}
