// The loader of typescript.mjs. Types are replaced with spaces, as in Node.js 22.18 and later, so that each character
// keeps its position: coverage and stack traces need no source maps.

import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { threadId } from 'node:worker_threads'

const require = createRequire(import.meta.url)
const cache = new URL('../.tap/typescript/', import.meta.url)

export function load (url, context, nextLoad) {
  if (!url.endsWith('.ts')) return nextLoad(url, context)
  const source = readFileSync(new URL(url), 'utf8')
  const file = new URL(`${createHash('sha256').update(source).digest('hex')}.js`, cache)
  return { format: 'module', source: read(file) ?? strip(source, file), shortCircuit: true }
}

function read (file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

function strip (source, file) {
  const { code } = require('@swc/wasm-typescript').transformSync(source, { mode: 'strip-only', module: true })
  mkdirSync(cache, { recursive: true })
  // Another process may be reading the file.
  const own = new URL(`${process.pid}-${threadId}.js`, cache)
  writeFileSync(own, code)
  renameSync(own, file)
  return code
}
