// A store for @fastify/rate-limit. The default store counts in fixed windows, so a client can send twice its limit
// around the end of a window. This store has a bucket for each client. A bucket holds `max` requests and empties evenly
// within `timeWindow`: `max` is the largest burst, `max / timeWindow` the rate.

import type { FastifyRateLimitStore } from '@fastify/rate-limit'

/** With more clients than this, empty buckets are deleted. */
const MANY = 10_000

interface Bucket {
  level: number
  /** When the level had this value. */
  since: number
}

export class LeakyBuckets implements FastifyRateLimitStore {
  readonly #buckets = new Map<string, Bucket>()

  incr (...[key, callback, timeWindow, max]: Parameters<FastifyRateLimitStore['incr']>): void {
    const now = performance.now()
    const level = this.#level(key, now, max / timeWindow) + 1
    // A rejected request does not fill the bucket, so a client that keeps sending still gets its rate.
    if (level <= max) this.#buckets.set(key, { level, since: now })
    if (this.#buckets.size > MANY) this.#tidy(now, max / timeWindow)
    callback(null, { current: Math.ceil(level), ttl: Math.max(0, level - max) * timeWindow / max })
  }

  /** For a route with its own limits. */
  child (): LeakyBuckets {
    return new LeakyBuckets()
  }

  #level (key: string, now: number, rate: number): number {
    const { level, since } = this.#buckets.get(key) ?? { level: 0, since: now }
    return Math.max(0, level - (now - since) * rate)
  }

  #tidy (now: number, rate: number): void {
    for (const key of this.#buckets.keys()) if (this.#level(key, now, rate) === 0) this.#buckets.delete(key)
  }
}
