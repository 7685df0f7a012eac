// An instance with WebSockets. It tells its parent its port, and when asked, when its WebSockets were opened.

import type { AddressInfo } from 'node:net'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import gracefulPlugin from '../../index.ts'

const app = Fastify({ logger: false })
await app.register(gracefulPlugin, { spread: Number(process.env['SPREAD']) })
await app.register(websocket)
const opened: number[] = []
app.register(async instance => {
  instance.get('/', { websocket: true }, socket => {
    opened.push(Date.now())
    socket.send('hello')
  })
})
await app.listen({ port: 0, host: '127.0.0.1' })
process.on('message', () => { process.send?.(opened) })
// The channel must not keep the process alive.
process.channel?.unref()
process.send?.((app.server.address() as AddressInfo).port)
