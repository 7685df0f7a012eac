// Packs the package as it would be published, and compiles the measured program beside it: no loader, no source maps,
// nothing that a user's process would not have.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Returns the directory; it is gone when the process is. */
export function build (): string {
  // Within the checkout, so that Node finds the dependencies of all that is compared.
  mkdirSync(join(ROOT, 'bench/.build'), { recursive: true })
  const directory = mkdtempSync(join(ROOT, 'bench/.build/'))
  process.on('exit', () => { rmSync(directory, { recursive: true, force: true }) })
  const installed = join(directory, 'node_modules/fastify-graceful')
  mkdirSync(installed, { recursive: true })
  // A package of its own: within this one, its name would mean the sources.
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }\n')
  const run = (command: string, args: readonly string[]) => execFileSync(command, args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  const [packed] = JSON.parse(run('npm', ['pack', '--json', '--silent', '--pack-destination', directory])) as [{ filename: string }]
  run('tar', ['-xzf', join(directory, packed.filename), '-C', installed, '--strip-components=1'])
  run(join(ROOT, 'node_modules/.bin/tsc'), ['-p', 'bench/tsconfig.json', '--outDir', directory])
  return directory
}
