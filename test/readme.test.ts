// The README against the code.

import t from 'tap'
import { readFileSync, readdirSync } from 'node:fs'
import { DEFAULTS, PROCESS_EVENTS, resolveOptions } from '../lib/options.ts'
import { createApp } from './helpers.ts'

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')

/** The rows of the table under a heading: its first two columns. */
function table (heading: string): Array<[string, string]> {
  const section = readme.split(`\n## ${heading}\n`)[1]?.split('\n## ')[0] ?? ''
  const rows = [...section.matchAll(/^\| `(\w+)` \| ([^|]+) \|/gm)]
  return rows.map(([, name = '', value = '']) => [name, value.replace(/^`([^`]*)`$/, '$1')])
}

t.test('its options table has the options and defaults of the code, in order', async t => {
  const code = Object.entries(DEFAULTS).map(([name, value]) => [name, typeof value === 'string' ? `'${value}'` : String(value)])
  t.strictSame(table('Options'), code)
})

t.test('its probe options are the ones of the code', async t => {
  const { health } = resolveOptions({})
  t.strictSame(table('Probes').map(([name]) => name), Object.keys(health as object))
  t.equal(Object.fromEntries(table('Probes'))['checkTimeout'], String((health as { checkTimeout: number }).checkTimeout))
})

t.test('it lists the events that signals may name', async t => {
  const [list = ''] = /`signals` may name: ([^.]*)\./.exec(readme)?.slice(1) ?? []
  t.strictSame([...list.matchAll(/`(\w+)`/g)].map(([, name]) => name), PROCESS_EVENTS)
})

t.test('its grace periods are longer than shutdownTimeout, and its delay fits the defaults', async t => {
  const periods = [...readme.matchAll(/(?:terminationGracePeriodSeconds|stop_grace_period): (\d+)/g)].map(([, seconds]) => Number(seconds))
  t.equal(periods.length, 2)
  for (const seconds of periods) t.ok(seconds * 1_000 > DEFAULTS.shutdownTimeout)
  const timeouts = [/`(\{ shutdownTimeout: [^`]+\})`/, /(\{ shutdownDelay: .*\})\)/].map(pattern => {
    const [text = ''] = pattern.exec(readme)?.slice(1) ?? []
    const options = [...text.matchAll(/(\w+): ([\d_]+)/g)].map(([, name = '', value = '']) => [name, Number(value.replaceAll('_', ''))])
    return resolveOptions(Object.fromEntries(options) as object).shutdownTimeout
  })
  t.strictSame(timeouts, [9_000, 30_000])
})

t.test('it describes the controller that there is', async t => {
  const { app } = await createApp(t)
  const described = [...readme.matchAll(/^\| (`\.[^|]*) \|/gm)].flatMap(([, cell = '']) => [...cell.matchAll(/`\.(\w+)/g)].map(([, name]) => name))
  t.strictSame(new Set(described), new Set(Object.keys(app.gracefulShutdown)))
})

t.test('its bodies are those of the probes', async t => {
  const { app } = await createApp(t, { health: { checks: { disk: () => false } }, ready: { checks: { db: () => false } } })
  const bodies = [(await app.inject('/health')).body, (await app.inject('/ready')).body]
  app.gracefulShutdown.setReady(false)
  bodies.push((await app.inject('/ready')).body)
  for (const body of bodies) t.ok(readme.includes(`\`${body}\``), body)
})

t.test('its figures of cost are those of the last run of the bench', async t => {
  const results = readFileSync(new URL('../bench/results/results.md', import.meta.url), 'utf8')
  t.match(results, /\*\*fastify-graceful\*\*/)
  for (const line of results.split('\n')) t.ok(readme.includes(line), line)
})

t.test('its relative links lead to files', async t => {
  const { existsSync } = await import('node:fs')
  const links = [...readme.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path = '']) => path)
  t.ok(links.length > 3)
  for (const path of links) t.ok(existsSync(new URL(`../${path}`, import.meta.url)), path)
})

t.test('its table of other plugins has a row for each test, with the versions tested', async t => {
  const folder = new URL('ecosystem/', import.meta.url)
  const { dependencies } = JSON.parse(readFileSync(new URL('packages/package.json', folder), 'utf8')) as { dependencies: Record<string, string> }
  const rows = [...readme.matchAll(/^\| \[([^\]]+)\]\(test\/ecosystem\/(.+?\.test\.ts)\)[^|]* \| ([^|]+) \|/gm)]
  t.strictSame(new Set(rows.map(([, , file]) => file)), new Set(readdirSync(folder).filter(file => file.endsWith('.test.ts'))))
  for (const [, name = '', , versions = ''] of rows) {
    // A version alone is that of what the row is about.
    for (const [, other = name, version] of versions.matchAll(/(?:([@\w/-]+) )?(\d+\.\d+\.\d+)/g)) {
      t.equal(version, dependencies[other], other)
    }
  }
})
