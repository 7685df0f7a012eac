'use strict'

const multipart = require('@fastify/multipart')
const { serve } = require('./serve.cjs')

serve(async app => {
  await app.register(multipart)
  app.post('/upload', async request => {
    const { filename, file } = await request.file()
    let bytes = 0
    for await (const chunk of file) {
      if (bytes === 0) request.log.info('holds /upload')
      bytes += chunk.length
    }
    return { filename, bytes }
  })
})
