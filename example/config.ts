// The configuration from environment variables, read once at the start. An invalid value ends the program: a silent
// fallback to a default would be hard to find.

import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The part of the remaining time that requests in flight get; the rest is for closing connections and cleanup. */
const DRAIN_PART = 5 / 6

/** Number() alone would also accept '', ' 1 ', '0x10' and '1e3'. */
const WHOLE = /^\d+$/
const DECIMAL = /^\d+(\.\d+)?$/

export interface Config {
  /** Default: 127.0.0.1, so that the example opens no port to the network. In a container: HOST=0.0.0.0. */
  host: string
  /** 0 selects a free port; the log shows which. */
  port: number
  /** Whether systemd has opened the listening socket (systemd/api.socket) and passed it as file descriptor 3. */
  isSocketActivated: boolean
  /** HTTP2=1: HTTP/2 without TLS, for a load balancer that is configured for it. The instance then does not speak HTTP/1. */
  isHttp2: boolean
  /** The addresses of load balancers, separated by commas: X-Forwarded-For is trusted only from these. `false`: never. */
  trustProxy: string | false
  /** SHUTDOWN_TIMEOUT is in seconds, as in orchestrators; here and in the plugin it is in milliseconds. */
  shutdownTimeout: number
  shutdownDelay: number
  /** The delay ends early if no request arrives for this long. Default: as long as the delay, which then never ends early. */
  shutdownQuiet: number
  drainTimeout: number
  /** Default: a file in the directory for temporary files, so that the example leaves nothing in the checkout. */
  database: string
  /** The file for the last metrics; undefined writes them to the log. */
  metricsFile: string | undefined
}

export class ConfigError extends Error {}

export function readConfig (env: NodeJS.ProcessEnv): Config {
  const seconds = numberFrom(env, 'SHUTDOWN_TIMEOUT', 30, {
    what: 'a number of seconds', pattern: DECIMAL, least: 0.1, most: 86_400
  })
  const shutdownTimeout = Math.round(1000 * seconds)
  const shutdownDelay = numberFrom(env, 'SHUTDOWN_DELAY', 0, {
    what: 'a whole number of milliseconds', pattern: WHOLE, least: 0, most: 3_600_000
  })
  if (shutdownDelay >= shutdownTimeout) {
    throw new ConfigError(`SHUTDOWN_DELAY (${shutdownDelay} ms) must be shorter than SHUTDOWN_TIMEOUT (${shutdownTimeout} ms)`)
  }
  const shutdownQuiet = numberFrom(env, 'SHUTDOWN_QUIET', shutdownDelay, {
    what: 'a whole number of milliseconds', pattern: WHOLE, least: Math.min(1, shutdownDelay), most: shutdownDelay
  })
  return {
    host: textFrom(env, 'HOST', '127.0.0.1'),
    port: readPort(env, 'PORT', 3000),
    // The variables may be inherited from another process, for which they were meant.
    isSocketActivated: Number(env['LISTEN_PID']) === process.pid && Number(env['LISTEN_FDS']) > 0,
    isHttp2: numberFrom(env, 'HTTP2', 0, { what: 'a whole number', pattern: WHOLE, least: 0, most: 1 }) === 1,
    trustProxy: env['TRUST_PROXY'] === undefined ? false : textFrom(env, 'TRUST_PROXY', ''),
    shutdownTimeout,
    shutdownDelay,
    shutdownQuiet,
    // The plugin rejects a delay and a drain that leave no time for cleanup; a part of the remaining time always fits.
    drainTimeout: Math.floor((shutdownTimeout - shutdownDelay) * DRAIN_PART),
    database: textFrom(env, 'DATABASE', join(tmpdir(), 'fastify-graceful-example.sqlite')),
    metricsFile: env['METRICS_FILE'] === undefined ? undefined : textFrom(env, 'METRICS_FILE', '')
  }
}

export function readPort (env: NodeJS.ProcessEnv, name: string, preset: number): number {
  return numberFrom(env, name, preset, { what: 'a whole number', pattern: WHOLE, least: 0, most: 65_535 })
}

interface Range {
  what: string
  pattern: RegExp
  least: number
  most: number
}

function numberFrom (env: NodeJS.ProcessEnv, name: string, preset: number, { what, pattern, least, most }: Range): number {
  const text = env[name]
  if (text === undefined) return preset
  const value = pattern.test(text) ? Number(text) : NaN
  if (!(value >= least && value <= most)) {
    throw new ConfigError(`${name} must be ${what} from ${least} to ${most}, got "${text}"`)
  }
  return value
}

function textFrom (env: NodeJS.ProcessEnv, name: string, preset: string): string {
  const text = env[name]
  if (text === undefined) return preset
  if (text.trim() === '') throw new ConfigError(`${name} must not be empty`)
  return text
}
