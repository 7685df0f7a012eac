'use strict'

const { Server } = require('socket.io')
const { serve } = require('./serve.cjs')

serve(async app => {
  const io = new Server(app.server)
  io.on('connection', socket => { socket.emit('hello') })
  // Ends the connections, and closes the HTTP server, too.
  app.addHook('preClose', async () => { await io.close() })
})
