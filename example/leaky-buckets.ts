// A store for @fastify/rate-limit. Its own one counts in fixed windows, which let a client make twice its requests
// around the turn of a window. This one has a bucket for each client, which holds `max` requests and leaks them
// evenly, all of them within `timeWindow`: `max` is the burst, `max / timeWindow` the rate.

import type { FastifyRateLimitStore } from '@fastify/rate-limit'

/** When there are more clients than this, the buckets that have run empty are thrown away. */
const MANY = 10_000

interface Bucket {
  level: number
  /** When the level was that. */
  since: number
}

export class LeakyBuckets implements FastifyRateLimitStore {
  readonly #buckets = new Map<string, Bucket>()

  incr (...[key, callback, timeWindow, max]: Parameters<FastifyRateLimitStore['incr']>): void {
    const now = performance.now()
    const level = this.#level(key, now, max / timeWindow) + 1
    // A request that is refused does not fill the bucket: who goes on trying gets the rate, not nothing.
    if (level <= max) this.#buckets.set(key, { level, since: now })
    if (this.#buckets.size > MANY) this.#tidy(now, max / timeWindow)
    callback(null, { current: Math.ceil(level), ttl: Math.max(0, level - max) * timeWindow / max })
  }

  /** A route with limits of its own. */
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
