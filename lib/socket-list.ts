// Open sockets, in the order in which they came. The links are on the sockets themselves: a Set would need a hash of each,
// which takes longer than all else that is done for a connection.

import type { Socket } from 'node:net'

const kPrevious = Symbol('graceful.previous')
const kNext = Symbol('graceful.next')

interface Node {
  [kPrevious]?: Node | undefined
  [kNext]?: Node | undefined
}

export class SocketList<T extends Socket> {
  /** Behind the last one, and before the first. */
  readonly #end: Required<Node>

  constructor () {
    const end = {} as Required<Node>
    end[kPrevious] = end
    end[kNext] = end
    this.#end = end
  }

  get isEmpty (): boolean {
    return this.#end[kNext] === this.#end
  }

  /** Adds a socket that is in no list. */
  add (socket: T & Node): void {
    const end = this.#end
    const last = end[kPrevious] as Node
    socket[kPrevious] = last
    socket[kNext] = end
    last[kNext] = socket
    end[kPrevious] = socket
  }

  * [Symbol.iterator] (): Generator<T, void> {
    for (let node = this.#end[kNext]; node !== this.#end; node = (node as Required<Node>)[kNext]) yield node as T
  }
}

/** Takes a socket out of its list, if it is in one. */
export function unlink (socket: Socket & Node): void {
  const { [kPrevious]: previous, [kNext]: next } = socket
  if (next === undefined) return
  (previous as Node)[kNext] = next
  next[kPrevious] = previous
  socket[kPrevious] = undefined
  socket[kNext] = undefined
}
