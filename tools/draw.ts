// `npm run pictures`: redraws the pictures of the benchmarks, the reconnects, the rolling restarts and the soak from the stored results.
// The picture of the demo is drawn by a run: npm run demo -- --picture example/timeline.svg

import type { Results as Reconnects } from '../bench/reconnects/report.ts'
import type { Results } from '../bench/results.ts'
import type { Result } from '../test/rolling/report.ts'
import type { Results as Soak } from '../test/soak/report.ts'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { drawCharts } from '../bench/charts.ts'
import { drawReconnects } from '../bench/reconnects/report.ts'
import { drawRestarts } from '../test/rolling/report.ts'
import { drawSoak } from '../test/soak/report.ts'

const ROOT = new URL('..', import.meta.url)

/** By path from the root of the project. */
export function picturesOfResults (): Record<string, string> {
  const charts = drawCharts(read('bench/results/results.json') as Results)
  return {
    ...Object.fromEntries(Object.entries(charts).map(([name, svg]) => [`bench/results/${name}.svg`, svg])),
    'bench/reconnects/reconnects.svg': drawReconnects(read('bench/reconnects/results.json') as Reconnects),
    'example/rolling.svg': drawRestarts(read('test/rolling/results.json') as Result[]),
    'test/soak/soak.svg': drawSoak(read('test/soak/results.json') as Soak)
  }
}

function read (path: string): unknown {
  return JSON.parse(readFileSync(new URL(path, ROOT), 'utf8'))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [path, svg] of Object.entries(picturesOfResults())) writeFileSync(new URL(path, ROOT), svg)
}
