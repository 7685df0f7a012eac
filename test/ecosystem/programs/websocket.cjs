'use strict'

const websocket = require('@fastify/websocket')
const { serve } = require('./serve.cjs')

serve(async app => {
  // The user's own close code and reason.
  const preClose = done => {
    for (const client of app.websocketServer.clients) client.close(4000, 'come back soon')
    done()
  }
  await app.register(websocket, process.env.PRE_CLOSE === undefined ? {} : { preClose })
  app.get('/echo', { websocket: true }, socket => {
    socket.on('message', message => { socket.send(String(message)) })
    socket.send('hello')
  })
})
