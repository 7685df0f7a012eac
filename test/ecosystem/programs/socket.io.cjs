'use strict'

const { Server } = require('socket.io')
const { serve } = require('./serve.cjs')

serve(async app => {
  const io = new Server(app.server)
  io.on('connection', socket => { socket.emit('hello') })
  // Also closes the HTTP server, so that a test can send no further request.
  app.addHook('preClose', async () => { await io.close() })
  app.post('/upload', async request => request.body)
})
