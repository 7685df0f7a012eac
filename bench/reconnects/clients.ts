// Many WebSocket clients of one instance. As soon as it tells a client to go, the client connects to the other instance.
// The process tells its parent when all have connected; then, when all have reconnected, how long each has waited for that.
//
// They do only what is needed, so that the clients of a whole service fit on the machine of the instances.

import { connect, type Socket } from 'node:net'

const { FROM, TO, COUNT } = process.env
/** Connections that are opened at the same time. */
const BATCH = 100

const HANDSHAKE = [
  'GET / HTTP/1.1', 'Host: bench', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==', '', ''
].join('\r\n')
/** The first bytes of the frames that the service sends. */
const [HELLO, CLOSE] = [Buffer.from('\x05hello'), Buffer.of(0x88, 0x02)]
/** A close frame with code 1001, masked with zeros. */
const CLOSED = Buffer.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9)

/** Resolves when the server sends this, or the connection is closed. */
async function receive (socket: Socket, frame: Buffer): Promise<void> {
  await new Promise<void>(resolve => {
    const look = (chunk: Buffer) => { if (chunk.includes(frame)) resolve() }
    socket.on('data', look).on('close', resolve)
  })
}

/** Resolves when the server has greeted the client. */
async function open (port: string | undefined): Promise<Socket> {
  for (;;) {
    const socket = connect(Number(port), '127.0.0.1')
    // A client that is too slow to answer the close frame is reset.
    socket.on('error', () => {})
    socket.write(HANDSHAKE)
    await receive(socket, HELLO)
    if (!socket.destroyed) return socket
  }
}

async function reconnect (socket: Socket): Promise<number> {
  await receive(socket, CLOSE)
  socket.end(CLOSED)
  const start = performance.now()
  await open(TO)
  return performance.now() - start
}

const waits: Array<Promise<number>> = []
while (waits.length < Number(COUNT)) {
  const sockets = await Promise.all(Array.from({ length: BATCH }, async () => await open(FROM)))
  waits.push(...sockets.map(async socket => await reconnect(socket)))
}
process.send?.([])
process.send?.((await Promise.all(waits)).map(Math.round))
// The parent ends the process.
