'use strict'

// What `require('fastify-graceful/prometheus')` returns, in the same form as main.cjs. Built from lib/prometheus.ts.

const { gracefulMetrics } = load()

module.exports = gracefulMetrics
module.exports.default = gracefulMetrics
module.exports.gracefulMetrics = gracefulMetrics

function load () {
  try {
    return require('./dist/prometheus.js')
  } catch (cause) {
    if (cause.code !== 'MODULE_NOT_FOUND') throw cause
    const error = new Error('fastify-graceful/prometheus needs prom-client, an optional peer dependency: npm install prom-client', { cause })
    throw Object.assign(error, { code: cause.code })
  }
}
