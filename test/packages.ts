// Packages that `npm test` does not need. They are installed into a cache outside the checkout, once for each lock file.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))
const MANIFESTS = ['package.json', 'package-lock.json']

/** Installs the packages of `test/NAME/packages`. Returns the cache of this name, and its `node_modules`. */
export function installPackages (name: string): { cache: string, modules: string } {
  const source = join(ROOT, 'test', name, 'packages')
  const lock = readFileSync(join(source, 'package-lock.json'))
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'fastify-graceful', name)
  const packages = join(cache, createHash('sha256').update(lock).digest('hex').slice(0, 16))
  if (!existsSync(join(packages, 'complete'))) {
    mkdirSync(packages, { recursive: true })
    for (const manifest of MANIFESTS) copyFileSync(join(source, manifest), join(packages, manifest))
    run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'], packages)
    writeFileSync(join(packages, 'complete'), '')
  }
  return { cache, modules: realpathSync(join(packages, 'node_modules')) }
}

/**
 * Copies `test/NAME/programs` to a folder from which they can import the packages and the plugin, as built from this checkout. The
 * folder is removed when the process exits.
 */
export function installPrograms (name: string): string {
  const { modules } = installPackages(name)
  buildPlugin()
  const folder = mkdtempSync(join(dirname(modules), 'run-'))
  process.on('exit', () => { rmSync(folder, { recursive: true, force: true }) })
  cpSync(join(ROOT, 'test', name, 'programs'), folder, { recursive: true })
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(ROOT, join(folder, 'node_modules/fastify-graceful'))
  return folder
}

/** Builds the plugin into dist, which main.cjs loads. Returns the path of main.cjs. */
export function buildPlugin (): string {
  run('npm', ['run', 'build', '--silent'], ROOT)
  return join(ROOT, 'main.cjs')
}

export function run (command: string, args: readonly string[], cwd: string): void {
  execFileSync(command, args, { cwd, stdio: ['ignore', process.stderr, 'inherit'] })
}
