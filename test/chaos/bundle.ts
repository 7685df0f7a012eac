// The service in one file, with the built package in it. Starting it takes half as long as from many files.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { ROOT } from '../packages.ts'

/** The package as `npm run build` makes it. */
export const BUILT = join(ROOT, 'dist/index.js')

/**
 * @param file where to write it
 * @param change what to do to the source of the built package
 */
export async function bundleService (file: string, change: (source: string) => string = source => source): Promise<void> {
  const contents = change(readFileSync(BUILT, 'utf8'))
  await build({
    entryPoints: [join(ROOT, 'test/chaos/service.ts')],
    outfile: file,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'esm',
    logLevel: 'error',
    // What Fastify and its plugins require.
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)" },
    plugins: [{
      name: 'built package',
      setup: ({ onResolve, onLoad }) => {
        onResolve({ filter: /\/index\.ts$/ }, () => ({ path: BUILT }))
        onLoad({ filter: /\/dist\/index\.js$/ }, ({ path }) => path === BUILT ? { contents } : undefined)
      }
    }]
  })
}
