// HTTP/2 frames, written by hand: a library would not send these.

export const TYPES = { data: 0, headers: 1, priority: 2, reset: 3, settings: 4, ping: 6, window: 8, continuation: 9 } as const

const EMPTY = Buffer.alloc(0)
export const END_STREAM = 1
export const END_HEADERS = 4

export function frame (type: keyof typeof TYPES, flags: number, stream: number, payload: Buffer = EMPTY): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = TYPES[type]
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

/** What begins a session: the preface, and empty settings. */
export const START = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame('settings', 0, 0)])

/** `GET /`: three entries of the static table, and the authority `x`. */
const GET = Buffer.from([0x82, 0x86, 0x84, 0x41, 0x01, 0x78])
/** `POST /json` with a body that is announced. */
const POST = Buffer.from([0x83, 0x86, 0x44, 0x05, ...Buffer.from('/json'), 0x41, 0x01, 0x78, 0x5f, 0x0a, ...Buffer.from('text/plain')])

export function get (stream: number): Buffer {
  return frame('headers', END_STREAM | END_HEADERS, stream, GET)
}

export function post (stream: number): Buffer {
  return frame('headers', END_HEADERS, stream, POST)
}

/** Headers that continue. */
export function endless (stream: number): Buffer {
  return frame('headers', END_STREAM, stream, GET)
}

/** RST_STREAM with the code CANCEL. */
export function reset (stream: number): Buffer {
  return frame('reset', 0, stream, Buffer.from([0, 0, 0, 8]))
}

/** WINDOW_UPDATE by one octet. */
export function windowUpdate (stream: number): Buffer {
  return frame('window', 0, stream, Buffer.from([0, 0, 0, 1]))
}

/** A literal header of this length, which no table keeps. */
export function literal (length: number): Buffer {
  const size = Buffer.alloc(4)
  // A prefix of seven bits, then groups of seven bits, the lowest first.
  let bytes = 0
  size[bytes++] = 0x7f
  for (let rest = length - 0x7f; ; rest >>= 7) {
    const isLast = rest < 0x80
    size[bytes++] = isLast ? rest : (rest & 0x7f) | 0x80
    if (isLast) break
  }
  return Buffer.concat([Buffer.from([0x10, 0x01, 0x61]), size.subarray(0, bytes), Buffer.alloc(length, 0x62)])
}
