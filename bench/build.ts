// Packs the package as it would be published, and compiles the measured program beside it. The process has no loader and
// no source maps, as a user's process has none.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Returns the directory, which is removed when this process exits. */
export function build (): string {
  // Inside the checkout, so that Node finds the compared packages and their dependencies.
  mkdirSync(join(ROOT, 'bench/.build'), { recursive: true })
  const directory = mkdtempSync(join(ROOT, 'bench/.build/'))
  process.on('exit', () => { rmSync(directory, { recursive: true, force: true }) })
  const installed = join(directory, 'node_modules/fastify-graceful')
  mkdirSync(installed, { recursive: true })
  // A package.json of its own: inside this package, the package's name would resolve to its sources.
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }\n')
  const run = (command: string, args: readonly string[]) => execFileSync(command, args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  const [packed] = JSON.parse(run('npm', ['pack', '--json', '--silent', '--pack-destination', directory])) as [{ filename: string }]
  run('tar', ['-xzf', join(directory, packed.filename), '-C', installed, '--strip-components=1'])
  run(join(ROOT, 'node_modules/.bin/tsc'), ['-p', 'bench/tsconfig.json', '--outDir', directory])
  return directory
}
