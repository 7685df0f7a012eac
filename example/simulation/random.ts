// Random numbers that can be repeated: the same seed gives the same sequence.

export class Random {
  #state: number

  constructor (seed: number) {
    this.#state = seed
  }

  /** From 0 to 1, excluding 1: a Weyl sequence with its bits mixed, as in splitmix. */
  next (): number {
    this.#state = (this.#state + 0x9e3779b9) | 0
    let bits = this.#state
    bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad)
    bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97)
    return ((bits ^ (bits >>> 15)) >>> 0) / 2 ** 32
  }

  between (least: number, most: number): number {
    return least + this.next() * (most - least)
  }

  /** The time until the next event of a Poisson process, with `rate` events in a unit of time. */
  untilNext (rate: number): number {
    return -Math.log(1 - this.next()) / rate
  }

  /** Most values are near the median, a few are much larger. */
  logNormal (median: number, spread: number): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next())
    return median * Math.exp(spread * normal)
  }
}
