// Bundles the programs of test/fixtures with all that they import. Started from one file, without a loader, a program takes less than
// half of the processor time, and the tests start hundreds of them.

import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const CACHE = join(ROOT, '.tap/bundles')
const PROGRAMS = join(ROOT, 'test/fixtures')
/** How long the bundles of earlier sources are kept, in milliseconds: tests that run may still start them. */
const KEPT = 3_600_000

function filesIn (directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts')).map(name => join(directory, name))
}

/** Changes with each of the files. */
function keyOf (files: readonly string[]): string {
  const states = files.map(file => [file, statSync(file).size, statSync(file).mtimeMs])
  return createHash('sha256').update(JSON.stringify(states)).digest('hex')
}

/** The directory with the bundles, which are made if necessary. */
export function bundles (): string {
  const programs = readdirSync(PROGRAMS).filter(name => name.endsWith('.ts')).map(name => join(PROGRAMS, name))
  const sources = ['index.ts', 'example/opentelemetry.ts', 'package-lock.json', 'test/bundle.ts'].map(name => join(ROOT, name))
  const directory = join(CACHE, keyOf([...sources, ...programs, ...filesIn(join(ROOT, 'lib')), ...filesIn(join(ROOT, 'types'))]))
  if (!existsSync(directory)) build(programs, directory)
  return directory
}

function build (programs: string[], directory: string): void {
  mkdirSync(CACHE, { recursive: true })
  for (const name of readdirSync(CACHE)) {
    const path = join(CACHE, name)
    // Another process may be doing the same.
    const { mtimeMs = Infinity } = statSync(path, { throwIfNoEntry: false }) ?? {}
    if (Date.now() - mtimeMs > KEPT) rmSync(path, { recursive: true, force: true })
  }
  const own = mkdtempSync(join(CACHE, 'new-'))
  buildSync({
    entryPoints: programs,
    outdir: own,
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
  try {
    renameSync(own, directory)
  } catch {
    // Another process has been faster.
    rmSync(own, { recursive: true })
  }
}
