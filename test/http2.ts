// HTTP/2 frames, written and read by hand: a library would not send these, nor tell which frames it has received.

export const TYPES = { data: 0, headers: 1, priority: 2, reset: 3, settings: 4, ping: 6, goaway: 7, window: 8, continuation: 9 } as const

/** The octets before the payload. */
const HEAD = 9
const EMPTY = Buffer.alloc(0)
export const END_STREAM = 1
export const END_HEADERS = 4

export function frame (type: keyof typeof TYPES, flags: number, stream: number, payload: Buffer = EMPTY): Buffer {
  const head = Buffer.alloc(HEAD)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = TYPES[type]
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

export interface Frame {
  /** A number of `TYPES`. */
  type: number
  flags: number
  stream: number
  payload: Buffer
}

/** Returns a function that takes what arrives, in chunks, and calls `use` with each frame. */
export function frameReader (use: (frame: Frame) => void): (chunk: Buffer) => void {
  let rest: Buffer = EMPTY
  return chunk => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    while (rest.length >= HEAD && rest.length >= HEAD + rest.readUIntBE(0, 3)) {
      const end = HEAD + rest.readUIntBE(0, 3)
      use({ type: rest.readUInt8(3), flags: rest.readUInt8(4), stream: rest.readUInt32BE(5), payload: rest.subarray(HEAD, end) })
      rest = rest.subarray(end)
    }
  }
}

/** What begins a session: the preface, and empty settings. */
export const START = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame('settings', 0, 0)])

/** `POST /json` with a body that is announced. */
const POST = Buffer.from([0x83, 0x86, ...pathOf('/json'), 0x41, 0x01, 0x78, 0x5f, 0x0a, ...Buffer.from('text/plain')])

/** A literal; shorter than 127 octets. */
function pathOf (path: string): Buffer {
  return Buffer.from([0x44, path.length, ...Buffer.from(path)])
}

/** The headers of a GET: two entries of the static table, the path, and the authority `x`. */
function getHeaders (path: string): Buffer {
  return Buffer.from([0x82, 0x86, ...pathOf(path), 0x41, 0x01, 0x78])
}

export function get (stream: number, path = '/'): Buffer {
  return frame('headers', END_STREAM | END_HEADERS, stream, getHeaders(path))
}

export function post (stream: number): Buffer {
  return frame('headers', END_HEADERS, stream, POST)
}

/** Headers that continue. */
export function endless (stream: number): Buffer {
  return frame('headers', END_STREAM, stream, getHeaders('/'))
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
