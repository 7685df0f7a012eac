// Runs before the tests (.taprc): bundles each program of test/fixtures with all that it imports. Started from one file, without a
// loader, a program takes less than half of the processor time, and the tests start hundreds of them.

import { readdirSync, rmSync } from 'node:fs'
import { buildSync } from 'esbuild'
import { BUNDLES } from './helpers.ts'

const programs = new URL('fixtures/', import.meta.url).pathname

rmSync(BUNDLES, { recursive: true, force: true })
buildSync({
  entryPoints: readdirSync(programs).filter(name => name.endsWith('.ts')).map(name => programs + name),
  outdir: BUNDLES,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  // pino finds the files of its transports beside its own.
  external: ['pino'],
  // Packages in CommonJS call it.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)" },
  logLevel: 'warning'
})
