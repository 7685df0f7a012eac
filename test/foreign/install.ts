// Puts everything in place: the suites into a cache outside the checkout, the plugin into dist, the preload beside the suites.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MANIFESTS = ['package.json', 'package-lock.json']

/** Paths of all that a test file needs. */
export interface Installation {
  modules: string
  fastify: string
  plugin: string
  preload: string
  /** For what the test files write; gone when the process is. */
  scratch: string
}

export function install (): Installation {
  const lock = readFileSync(new URL('packages/package-lock.json', import.meta.url))
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fastify-graceful/foreign')
  const packages = join(cache, createHash('sha256').update(lock).digest('hex').slice(0, 16))
  if (!existsSync(join(packages, 'complete'))) {
    mkdirSync(packages, { recursive: true })
    for (const name of MANIFESTS) copyFileSync(new URL(`packages/${name}`, import.meta.url), join(packages, name))
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'], packages)
    writeFileSync(join(packages, 'complete'), '')
  }
  run('npm', ['run', 'build', '--silent'], ROOT)

  const scratch = mkdtempSync(join(cache, 'run-'))
  process.on('exit', () => { rmSync(scratch, { recursive: true, force: true }) })
  run(join(ROOT, 'node_modules/.bin/tsc'), ['-p', 'test/foreign/tsconfig.json', '--outDir', scratch], ROOT)
  const modules = realpathSync(join(packages, 'node_modules'))
  return {
    modules,
    fastify: join(modules, 'fastify/fastify.js'),
    plugin: join(ROOT, 'main.cjs'),
    preload: join(scratch, 'test/foreign/preload.js'),
    scratch
  }
}

function run (command: string, args: readonly string[], cwd: string): void {
  execFileSync(command, args, { cwd, stdio: ['ignore', process.stderr, 'inherit'] })
}
