// What a run is made of. Plain data, so that it can be printed, and run alone. All times are in milliseconds.

export type Protocol = 'http' | 'https' | 'h2c' | 'h2'

export interface Scenario {
  /** `h2` is HTTP/2 over TLS that also allows HTTP/1. */
  protocol: Protocol
  /** Whether the first instance listens on a socket that another process has opened, as with systemd socket activation. */
  isInherited?: boolean
  instances: Instance[]
  clients: Client[]
  triggers: Trigger[]
}

export interface Instance {
  shutdownDelay: number | { max: number, quiet: number }
  spread?: number
  drainTimeout: number
  shutdownTimeout: number
  /** An onRequest hook that is added before the plugin, and how long it takes; 0 for one that takes a callback. */
  ahead?: number
  /** Async hooks that are added after the plugin. */
  hooks: Hook[]
  preClose: Step[]
  onClose: Step[]
  callbacks: Callback[]
  tasks: Task[]
}

export interface Hook {
  name: 'onRequest' | 'preParsing' | 'preHandler' | 'preSerialization' | 'onSend' | 'onResponse'
  ms: number
  /** Only `preParsing`: passes the body on through another stream, as a hook that decompresses it does. */
  pipes?: boolean
}

export interface Step {
  ms: number
  ends: 'well' | 'badly' | 'never'
}

export interface Callback extends Step {
  when: 'start' | 'end'
  timeout?: number
}

/** Background work that begins `at` after the instance listens. */
export interface Task extends Step {
  at: number
}

/** What a handler does. */
export interface Work {
  /**
   * - `return`: an async handler returns its answer
   * - `reply`: an async handler sends its answer, and goes on for `after`
   * - `callback`: a handler that returns nothing sends its answer later
   * - `stream`: a stream of chunks over `ms`
   * - `raw`: the reply is hijacked, and the handler writes the response itself
   * - `throw`: an async handler throws
   */
  answers: 'return' | 'reply' | 'callback' | 'stream' | 'raw' | 'throw'
  ms: number
  after: number
  /** Bytes of the answer. */
  size: number
}

interface Visit {
  /** The instance that it connects to. */
  to: number
  /** When it begins, after all instances listen. */
  at: number
  /** Over HTTP/1 or HTTP/2. */
  http: 1 | 2
}

/** Sends a request, and the next one when that is answered, over the same connection while that stays open. */
export interface Loop extends Visit { kind: 'loop', work: Work, pause: number }
/** Sends some requests without waiting for answers: a pipeline, or the streams of a session. */
export interface Burst extends Visit { kind: 'burst', works: Work[] }
/** Sends a request and leaves, after so many bytes of it or so long after it. */
export interface Leaver extends Visit { kind: 'leaver', work: Work, body: number, bytes?: number, after: number, reset: boolean }
/** Reads its answer in small parts. */
export interface Reader extends Visit { kind: 'reader', work: Work, pause: number }
/** Sends a body in parts. */
export interface Uploader extends Visit { kind: 'uploader', work: Work, parts: number, part: number, pause: number }
/** Sends so many bytes of the head of a request, and nothing more; with 0, it is silent. */
export interface Half extends Visit { kind: 'half', bytes: number }
/** Asks for /ready and /health, each time over a new connection. */
export interface Prober extends Visit { kind: 'prober', pause: number }
/** A WebSocket that sends messages. */
export interface Socket extends Visit { kind: 'websocket', pause: number, answersClose: boolean }

export type Client = Loop | Burst | Leaver | Reader | Uploader | Half | Prober | Socket

export interface Trigger {
  /** After all instances listen. */
  at: number
  kind: 'SIGTERM' | 'SIGINT' | 'SIGHUP' | 'SIGQUIT' | 'close' | 'shutdown' | 'throw' | 'reject'
  /** Only `close` and `shutdown`: the instance that it closes. Without it, all of them. */
  only?: number
}

/** The URL of a request, which also is its name. */
export function urlOf (client: number, request: number): string {
  return `/work/${client}-${request}`
}

export function isTls ({ protocol }: Scenario): boolean {
  return protocol === 'https' || protocol === 'h2'
}

/** What the handler of a request does. */
export function workOf ({ clients }: Scenario, url: string): Work | undefined {
  const [, client, request] = /^\/work\/(\d+)-(\d+)$/.exec(url) ?? []
  const found = clients[Number(client)]
  if (found === undefined) return undefined
  if (found.kind === 'burst') return found.works[Number(request)]
  return 'work' in found ? found.work : undefined
}

/** What is still to come of an answer after its URL, so that a client knows whether it is whole. */
export function answerOf (url: string, { size }: Work): string {
  return JSON.stringify({ url, pad: 'x'.repeat(size) })
}
