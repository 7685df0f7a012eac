'use strict'

const { Server } = require('socket.io')
const { serve } = require('./serve.cjs')

serve(async app => {
  const io = new Server(app.server)
  io.on('connection', socket => { socket.emit('hello') })
  // Ends the connections, and closes the HTTP server, so that a test cannot ask for anything more.
  app.addHook('preClose', async () => { await io.close() })
  app.post('/upload', async request => request.body)
})
