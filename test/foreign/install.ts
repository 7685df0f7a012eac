// Installs everything: the suites into a cache outside the checkout, the plugin into dist, the preload beside the suites.

import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, buildPlugin, installPackages, run } from '../packages.ts'

/** The paths that a test file needs. */
export interface Installation {
  modules: string
  fastify: string
  plugin: string
  preload: string
  /** For files that the tests write; removed when the process exits. */
  scratch: string
}

export function install (): Installation {
  const { cache, modules } = installPackages('foreign')
  const plugin = buildPlugin()

  const scratch = mkdtempSync(join(cache, 'run-'))
  process.on('exit', () => { rmSync(scratch, { recursive: true, force: true }) })
  run(join(ROOT, 'node_modules/.bin/tsc'), ['-p', 'test/foreign/tsconfig.json', '--outDir', scratch], ROOT)
  return {
    modules,
    fastify: join(modules, 'fastify/fastify.js'),
    plugin,
    preload: join(scratch, 'test/foreign/preload.js'),
    scratch
  }
}
