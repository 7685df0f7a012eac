// The plugin with other plugins, at SIGTERM: `npm run test:ecosystem`, or `npm run test:ecosystem -- static sse` for only these.
//
// Each test forks a program of `programs`, as in an application: in CommonJS, with the packages that packages/package.json
// pins, and with `fastify-graceful` as built from this checkout. Programs load recipes from the pages themselves, from `recipes`; the
// complete program of a page is there under the name of the page.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ROOT, installPrograms } from '../packages.ts'
import { pages } from '../pages.ts'
import { nameOf } from '../snippets.ts'

const HERE = fileURLToPath(new URL('.', import.meta.url))

const files = testFiles(process.argv.slice(2))
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { process.exit(1) })
const programs = installPrograms('ecosystem')
writeRecipes(join(programs, 'recipes'))
const { status } = spawnSync(process.execPath, [join(ROOT, 'node_modules/.bin/tap'), 'run', '--reporter=terse', ...files], {
  cwd: ROOT, env: { ...process.env, ECOSYSTEM_PROGRAMS: programs }, stdio: 'inherit'
})
process.exit(status ?? 1)

function testFiles (names: readonly string[]): string[] {
  const wanted = names.length > 0 ? names.map(name => `${name}.test.ts`) : readdirSync(HERE).filter(name => name.endsWith('.test.ts'))
  const found = wanted.map(name => join(HERE, name)).filter(file => existsSync(file))
  if (found.length === 0) throw new Error(`No test files: ${wanted.join(', ')}`)
  return found
}

/** Writes each CommonJS snippet of the pages that exports a function to a file with its name, and each that is run to one of the page. */
function writeRecipes (folder: string): void {
  for (const { path, fences } of pages()) {
    for (const { code, runs } of fences.filter(({ language }) => language === 'cjs')) {
      const name = runs ? basename(path, '.md') : nameOf(code)
      // A name that is there twice is an error.
      if (name !== undefined) writeFileSync(join(folder, `${name}.cjs`), code.replace('listen(3000', 'listen(0'), { flag: 'wx' })
    }
  }
}
