// Which suites `npm run test:foreign` runs.

import t from 'tap'
import { readFileSync } from 'node:fs'
import { LEFT_OUT, SUITES } from './foreign/suites.ts'

t.test('each package of @fastify that Fastify lists is a suite, or is left out for a reason', async t => {
  const page = readFileSync(new URL('../node_modules/fastify/docs/Guides/Ecosystem.md', import.meta.url), 'utf8')
  const listed = new Set(Array.from(page.matchAll(/@fastify\/[\w-]+/g), ([name]) => name))
  t.ok(listed.size > 50)
  const named = [...SUITES.map(({ name }) => name), ...Object.values(LEFT_OUT).flat().map(name => `@fastify/${name}`)]
  t.strictSame([...listed].filter(name => !named.includes(name)), [])
  t.strictSame(named.filter((name, index) => named.indexOf(name) !== index), [], 'none twice')
})
