// The files that describe the project to npm and to GitHub.

import t from 'tap'
import { readFileSync } from 'node:fs'
import semver from 'semver'

const root = new URL('..', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, root), 'utf8')

interface Locked { version?: string, resolved?: string, link?: boolean, optional?: boolean, engines?: { node?: string } | string[] }
const lock = JSON.parse(read('package-lock.json')) as { packages: Record<string, Locked> }
const locked = Object.entries(lock.packages)

t.test('each installed package supports each supported Node.js line', async t => {
  const { engines: { node } } = JSON.parse(read('package.json')) as { engines: { node: string } }
  // The last version of the oldest line, and the first supported version of each newer one.
  for (const version of ['20.20.2', '22.12.0', '24.0.0', '26.0.0']) {
    t.ok(semver.satisfies(version, node), version)
    // npm leaves out an optional package that does not fit, without a warning.
    const unsupported = locked.filter(([, { engines, optional }]) => !optional && engines !== undefined && !Array.isArray(engines) &&
      engines.node !== undefined && !semver.satisfies(version, engines.node))
    t.strictSame(unsupported.map(([path, { engines }]) => [path, engines]), [], version)
  }
})

t.test('the lock file names no registry', async t => {
  t.strictSame(locked.filter(([, { resolved, link }]) => resolved !== undefined && link !== true), [])
})
