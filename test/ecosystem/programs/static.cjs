'use strict'

const { mkdtempSync, rmSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')
const fastifyStatic = require('@fastify/static')
const { serve } = require('./serve.cjs')

serve(async app => {
  const root = mkdtempSync(join(__dirname, 'files-'))
  writeFileSync(join(root, 'large.txt'), 'x'.repeat(Number(process.env.SIZE)))
  app.registerShutdownCallback(() => { rmSync(root, { recursive: true }) }, { name: 'files' })
  await app.register(fastifyStatic, { root })
})
