// README.md and docs/*.md against the code: their snippets compile and run, and their lists are complete.

import t from 'tap'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { compileFunction } from 'node:vm'
import { Registry } from 'prom-client'
import { parseAllDocuments } from 'yaml'
import * as errors from '../lib/errors.ts'
import { table as reconnects, type Results as Reconnects } from '../bench/reconnects/report.ts'
import { CRASH_SIGNALS, DEFAULTS, PROCESS_EVENTS, resolveMetricsOptions, resolveOptions } from '../lib/options.ts'
import { gracefulMetrics } from '../lib/prometheus.ts'
import { createApp, freePort, runNode } from './helpers.ts'
import { ATTACKS } from './hostile/attacks.ts'
import { withTable, type Result } from './hostile/report.ts'
import { anchors, codes, links, membersOf, page, pages, ROOT, rows, section, timesGiven } from './pages.ts'
import { compile, COMPILER_OPTIONS, typed } from './snippets.ts'

const LANGUAGES = new Set([
  'ts', 'js', 'cjs', 'json', 'yaml', 'sh', 'text', 'http', 'nginx', 'haproxy', 'caddyfile', 'ini', 'dockerfile', 'diff', 'promql', 'html'
])

/** What a CommonJS module may use without declaring it: Node compiles it as the body of a function with these parameters. */
const MODULE_SCOPE = ['exports', 'require', 'module', '__filename', '__dirname']

const all = pages()
const snippets = all.flatMap(({ path, fences }) => fences.map(fence => ({ path, ...fence, name: `${path}:${fence.line}` })))

/** A folder below the tests, so that snippets can import their packages. In it, the name of this package stands for its source. */
const folder = `${ROOT}test/.tap/docs-${process.pid}`
mkdirSync(folder, { recursive: true })
t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
cpSync(`${ROOT}test/fixtures/docs`, folder, { recursive: true })
cpSync(`${ROOT}test/fixtures/docs/packages`, `${folder}/node_modules`, { recursive: true })
const entries = { '.': 'index.ts', './testing': 'lib/testing/index.ts', './prometheus': 'lib/prometheus.ts' }
const stubs = Object.entries(entries).map(([entry, source], index) => {
  const hasDefault = entry !== './testing'
  writeFileSync(`${folder}/entry-${index}.ts`, `export * from '../../../${source}'\n${hasDefault ? `export { default } from '../../../${source}'\n` : ''}`)
  return [entry, { import: `./entry-${index}.ts`, require: `./entry-${index}.${entry === '.' ? 'cts' : 'ts'}` }]
})
// As main.cjs does.
writeFileSync(`${folder}/entry-0.cts`, "import { gracefulPlugin } from '../../../index.ts'\nexport = Object.assign(gracefulPlugin, { gracefulPlugin, default: gracefulPlugin })\n")
writeFileSync(`${folder}/package.json`, JSON.stringify({ name: 'fastify-graceful', type: 'module', exports: Object.fromEntries(stubs) }))
/** The file of a snippet, in which lines have the same numbers as on the page. */
const fileOf = ({ path, line, language }: typeof snippets[number]) => `${folder}/${path.replaceAll(/[/.]/g, '-')}-${line}.${language}`
const compiled = snippets.filter(({ language }) => ['ts', 'js', 'cjs'].includes(language))
for (const { code, ...snippet } of compiled) {
  const text = snippet.language === 'cjs' ? typed(code) : code.replace('port: 3000', 'port: Number(process.env.PORT)')
  writeFileSync(fileOf({ code, ...snippet }), '\n'.repeat(snippet.line) + text)
}
// Its types and those of the plugin declare the same decorator, so that one program cannot have both.
const apart = compiled.filter(({ code }) => code.includes("require('fastify-graceful-shutdown')")).map(fileOf)
writeFileSync(`${folder}/tsconfig.json`, JSON.stringify({ compilerOptions: COMPILER_OPTIONS, include: ['*.ts', '*.js', '*.cjs'], exclude: apart }))
writeFileSync(`${folder}/tsconfig.apart.json`, JSON.stringify({ compilerOptions: COMPILER_OPTIONS, files: ['prelude.d.ts', ...apart] }))

t.test('each block of code names a checked language', async t => {
  t.ok(snippets.length > 3)
  for (const { language, name } of snippets) t.ok(LANGUAGES.has(language), `${name}: ${language}`)
})

t.test('snippets compile against the types of the plugin, and of the packages that they load', async t => {
  t.equal(compile(folder), '')
  t.equal(apart.length, 1)
  t.equal(compile(`${folder}/tsconfig.apart.json`), '')
})

t.test('CommonJS, JSON and YAML snippets can be parsed', async t => {
  for (const { language, name, code } of snippets) {
    if (language === 'cjs') t.doesNotThrow(() => { compileFunction(code, MODULE_SCOPE) }, name)
    if (language === 'json') t.doesNotThrow(() => JSON.parse(code) as unknown, name)
    if (language === 'yaml') for (const document of parseAllDocuments(code)) t.strictSame(document.errors, [], name)
  }
})

/** The path of a service's probe. */
function probeOf ({ code }: typeof snippets[number]): string {
  return /(?:health|path): '(\/\w+)'/.exec(code)?.[1] ?? '/health'
}

/** Sends requests until the service listens. Resolves to the status, or to NaN if it exits before. */
async function firstStatus (port: number, path: string, exit: Promise<unknown>): Promise<number> {
  const gone = exit.then(() => NaN)
  for (;;) {
    const answer = fetch(`http://127.0.0.1:${port}${path}`).then(({ status }) => status, () => undefined)
    const status = await Promise.race([gone, answer])
    if (status !== undefined) return status
    await new Promise(resolve => { setTimeout(resolve, 50) })
  }
}

t.test('services and tests', async t => {
  // Those in CommonJS need NestJS: test/ecosystem/nestjs.test.ts runs them.
  const programs = snippets.filter(({ runs, language }) => runs && language !== 'cjs')
  t.jobs = programs.length
  for (const snippet of programs) {
    const isTest = snippet.code.includes("'node:test'")
    void t.test(isTest ? `the tests of ${snippet.name} pass` : `${snippet.name} serves, and exits with 0 on SIGTERM`, async t => {
      const [port, adminPort, apiPort] = [await freePort(), await freePort(), await freePort()]
      const env = { PORT: `${port}`, ADMIN_PORT: `${adminPort}`, API_PORT: `${apiPort}` }
      const program = runNode(t, [`--import=${folder}/database.js`, fileOf(snippet)], env)
      if (!isTest) {
        // With an admin port, the probes are there.
        t.equal(await firstStatus(snippet.code.includes('ADMIN_PORT') ? adminPort : port, probeOf(snippet), program.exit), 200)
        program.kill('SIGTERM')
      }
      t.strictSame(await program.exit, { code: 0, signal: null }, program.output())
    })
  }
})

t.test('relative links lead to files, and to headings in them', async t => {
  const markdown = new Map(all.map(one => [one.path, anchors(one)]))
  for (const one of [...all, page('CONTRIBUTING.md'), page('CHANGELOG.md')]) {
    for (const link of links(one).filter(target => !/^[a-z]+:/.test(target))) {
      const { pathname, hash } = new URL(link, `file:///${one.path}`)
      const path = decodeURIComponent(pathname.slice(1))
      const exists = existsSync(`${ROOT}${path}`)
      t.ok(exists, `${one.path}: ${link}`)
      if (!exists || hash === '') continue
      const known = markdown.get(path) ?? anchors(page(path))
      t.ok(known.has(decodeURIComponent(hash.slice(1))), `${one.path}: ${link}`)
    }
  }
})

const readme = page('README.md')
const configuration = page('docs/configuration.md')
const lifecycle = page('docs/lifecycle.md')

/** The first column of a table, without backticks. */
const names = (text: string) => rows(text).map(([name = '']) => name.replaceAll('`', ''))

t.test('README has at most 200 lines', async t => {
  t.ok(readme.text.trimEnd().split('\n').length <= 200)
})

t.test('the options tables have the options and defaults of the code, in the same order', async t => {
  const code = Object.entries(DEFAULTS).map(([name, value]) => [`\`${name}\``, `\`${typeof value === 'string' ? `'${value}'` : value}\``])
  for (const one of [readme, configuration]) {
    t.strictSame(rows(section(one, 'Options')).filter(([name = '']) => name.slice(1, -1) in DEFAULTS).map(row => row.slice(0, 2)), code, one.path)
  }
})

t.test('the tables of probe, route and callback options have those of the code', async t => {
  const { health } = resolveOptions({})
  const table = rows(section(configuration, 'Probe options'))
  t.strictSame(new Set(table.map(([name = '']) => codes(name)[0])), new Set(Object.keys(health as object)))
  t.strictSame(new Set(table.map(([name = '']) => codes(name)[0])), new Set([...membersOf('ProbeOptions'), ...membersOf('HealthProbeOptions')]))
  const defaults = Object.fromEntries(table.map(([name = '', value = '']) => [codes(name)[0], codes(value)[0]]))
  t.match(defaults, { checkTimeout: String((health as { checkTimeout: number }).checkTimeout), guarded: 'false', duringShutdown: '503' })
  t.strictSame(names(section(configuration, 'Route options')), membersOf('GracefulRouteOptions'))
  t.strictSame(names(section(configuration, 'Callback options')), membersOf('CallbackOptions'))
})

t.test('the pages list the events that signals may name and those that it must not', async t => {
  const text = section(configuration, '`signals`').replaceAll('\n', ' ')
  t.strictSame(codes(/`signals` may name: ([^.]*)\./.exec(text)?.[1] ?? ''), PROCESS_EVENTS)
  t.strictSame(/\((SIGSEGV[^)]*)\)/.exec(text)?.[1]?.split(', '), CRASH_SIGNALS)
})

t.test('the API table has the members of the public types', async t => {
  const { app } = await createApp(t)
  const listed = rows(section(readme, 'API')).flatMap(([cell = '']) => codes(cell))
  const own = listed.filter(code => code.startsWith('fastify.')).map(code => /\.(\w+)/.exec(code)?.[1])
  const ofController = listed.filter(code => code.startsWith('.')).map(code => /\.(\w+)/.exec(code)?.[1])
  t.strictSame(new Set(own), new Set(membersOf('FastifyInstance')))
  t.strictSame(names(page('tools/typedoc/index.md').text), membersOf('FastifyInstance'), 'the API pages do not show them otherwise')
  t.strictSame(ofController, membersOf('GracefulShutdown'))
  t.strictSame(new Set(ofController), new Set(Object.keys(app.gracefulShutdown)))
})

t.test('the tables of the report and of the argument of a callback have the members of the public types', async t => {
  const report = membersOf('ShutdownReport')
  t.strictSame(names(section(lifecycle, 'The report')), report)
  const shown = lifecycle.fences.find(({ code }) => code.includes('omittedErrors'))?.code ?? ''
  t.strictSame([...shown.matchAll(/^ {2}(\w+):/gm)].map(([, name]) => name), report)
  t.strictSame(names(section(lifecycle, 'Shutdown callbacks')), membersOf('ShutdownContext'))
  const { app } = await createApp(t)
  t.strictSame(Object.keys(await app.gracefulShutdown.shutdown()).sort(), [...report].sort())
})

t.test('the table of fastify-graceful/testing has the members of its type', async t => {
  const table = rows(section(page('docs/testing.md'), 'fastify-graceful/testing'))
  t.strictSame(table.map(([cell = '']) => /\w+/.exec(codes(cell)[0] ?? '')?.[0]), membersOf('ShutdownTest', 'testing'))
})

t.test('the table of diagnostics channels has the channels and messages of the public types', async t => {
  const source = readFileSync(`${ROOT}types/index.ts`, 'utf8')
  const channels = [...source.matchAll(/^ {2}'(fastify-graceful:\w+)': (\{[^}]*\})/gm)].map(([, name, message = '']) =>
    [name, [...message.matchAll(/(\w+): (?!FastifyInstance)/g)].map(([, member]) => member)])
  t.equal(channels.length, 5)
  const table = rows(section(page('docs/observability.md'), 'Diagnostics channels'))
  t.strictSame(table.map(([name = '', , message = '']) => [codes(name)[0], codes(message)]), channels)
})

t.test('the tables of metrics and their options have those of the code', async t => {
  const { app } = await createApp(t)
  const register = new Registry()
  await app.register(gracefulMetrics, { register, prefix: 'x_' })
  const metrics = (await register.getMetricsAsJSON()).map(({ name, type, values }) =>
    [name.replace('x_', ''), type, new Set(values.flatMap(({ labels }) => Object.keys(labels)).filter(label => label !== 'le'))])
  const listed = section(page('docs/observability.md'), 'Metrics with prom-client')
  const table = rows(listed)
  t.strictSame(table.filter(row => row.length === 4).map(([name = '', type, labels = '']) => [codes(name)[0], type, new Set(codes(labels))]), metrics)
  const options = table.filter(row => row.length === 3)
  t.strictSame(options.map(([name = '']) => codes(name)[0]), membersOf('GracefulMetricsOptions', 'prometheus'))
  t.equal(codes(options[1]?.[1] ?? '')[0], `'${resolveMetricsOptions({}).prefix}'`)
})

t.test('the phases are those of the types', async t => {
  const [, phases = ''] = /export type Phase = (.*)/.exec(readFileSync(`${ROOT}types/index.ts`, 'utf8')) ?? []
  for (const one of [readme, lifecycle]) t.strictSame(names(section(one, 'Phases')), phases.match(/\w+/g), one.path)
})

t.test('the errors table has each code of the plugin, with its status, cause and remedy', async t => {
  const table = rows(page('docs/errors.md').text)
  const code = Object.values(errors).filter(value => typeof value === 'function' && value.prototype instanceof Error)
    .map(value => new (value as new () => { code: string, statusCode: number })())
  t.equal(table.length, code.length)
  t.strictSame(
    Object.fromEntries(table.map(([name = '', status]) => [name.replaceAll('`', ''), Number(status)])),
    Object.fromEntries(code.map(({ code: name, statusCode }) => [name, statusCode]))
  )
  for (const [name = '', , cause = '', remedy = ''] of table) t.ok(cause !== '' && remedy !== '', name)
})

t.test('the error codes that the pages name are in the errors table', async t => {
  const known = new Set(names(page('docs/errors.md').text))
  for (const { path, text } of [...all, page('CONTRIBUTING.md')]) {
    for (const [code] of text.matchAll(/FST_ERR_GRACEFUL_[A-Z_]*[A-Z]/g)) t.ok(known.has(code), `${path}: ${code}`)
  }
})

t.test('the bodies of the probes, and of a rejected request, are those of the plugin', async t => {
  const { app } = await createApp(t, { health: { checks: { disk: () => false } }, ready: { checks: { db: () => false } } })
  const other = (await createApp(t)).app
  const bodies = [(await other.inject('/health')).body, (await other.inject('/ready')).body, (await app.inject('/health')).body, (await app.inject('/ready')).body]
  app.gracefulShutdown.setReady(false)
  bodies.push((await app.inject('/ready')).body)
  void app.gracefulShutdown.shutdown()
  bodies.push((await app.inject('/health')).body, (await app.inject('/ready')).body)
  for (const body of bodies) t.ok(section(configuration, 'Probes').includes(`\`${body}\``), body)
  t.ok(lifecycle.text.includes(errors.errorBody(new errors.ShuttingDownError())))
})

t.test('the files, classes and methods that the pages name exist', async t => {
  const inCode = readdirSync(`${ROOT}lib`, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
    .map(name => readFileSync(`${ROOT}lib/${name}`, 'utf8'))
  for (const one of [...all, page('CONTRIBUTING.md')]) {
    for (const [path] of one.text.matchAll(/(?<![\w/.])(?:lib|types|test|example|bench)\/[\w./-]*\w/g)) t.ok(existsSync(`${ROOT}${path}`), `${one.path}: ${path}`)
  }
  for (const one of [page('docs/internals.md'), page('CONTRIBUTING.md')]) {
    for (const code of codes(one.text)) {
      const [, owner, member] = /^([A-Z]\w+)(?:\.(#?\w+)(?:\(\))?)?$/.exec(code) ?? []
      if (owner === undefined || /[A-Z]{2}|^Abort/.test(owner)) continue
      const source = inCode.find(text => text.includes(`class ${owner} `))
      t.ok(source !== undefined && (member === undefined || new RegExp(`\\b${member.replace('#', '')}\\b`).test(source)), `${one.path}: ${code}`)
    }
  }
})

/** The log lines of the code: the level, and the message as a pattern. */
function loggedByCode (): Array<{ level: string, pattern: RegExp }> {
  const files = readdirSync(`${ROOT}lib`, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts')).map(name => `lib/${name}`)
  const lines = ['index.ts', ...files].flatMap(path => readFileSync(`${ROOT}${path}`, 'utf8').split('\n'))
  return lines.flatMap(line => {
    const [, level, exit] = /\b(?:log|this)\.(debug|info|warn|error)\(|(^ *(?:if .*)?exit\()/.exec(line) ?? []
    if (level === undefined && exit === undefined) return []
    const texts = [...line.matchAll(/'((?:[^'\\]|\\.)*)'|`((?:[^`\\]|\\.)*)`/g)].map(([, plain, template = '']) => plain ?? template)
    return texts.filter(text => / /.test(text)).map(text => ({
      level: level ?? 'error',
      pattern: new RegExp(`^${text.split(/\$\{[^}]*\}/).map(part => part.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)).join('.*')}$`)
    }))
  })
}

t.test('the log lines on the pages match those of the code, and the table has all of them', async t => {
  const table = rows(section(page('docs/troubleshooting.md'), 'Log lines')).map(([level = '', line = '']) => ({ level, line: line.replace(/^`|`$/g, '') }))
  const logged = loggedByCode()
  t.ok(logged.length > 20)
  for (const { level, line } of table) t.ok(logged.some(one => one.level === level && one.pattern.test(line)), `${level}: ${line}`)
  for (const { level, pattern } of logged) t.ok(table.some(one => one.level === level && pattern.test(one.line)), `${level}: ${String(pattern)}`)
  const shown = lifecycle.fences.find(({ code }) => code.includes('Graceful shutdown complete'))?.code ?? ''
  for (const line of shown.trim().split('\n')) t.ok(logged.some(({ pattern }) => pattern.test(line)), line)
})

t.test('the times in snippets are valid options, and grace periods are longer than the shutdown', async t => {
  const given = all.flatMap(timesGiven)
  t.ok(given.length > 3)
  for (const { where, options } of given) t.doesNotThrow(() => resolveOptions(options), where)
  const setting = /(?:terminationGracePeriodSeconds: |stop_grace_period: |TimeoutStopSec=)(\d+)/g
  const periods = all.flatMap(({ path, text }) => [...text.matchAll(setting)].map(([, seconds]) => ({ path, seconds: Number(seconds) })))
  t.ok(periods.length > 0)
  for (const { path, seconds } of periods) t.ok(seconds * 1_000 > DEFAULTS.shutdownTimeout, `${path}: ${seconds}`)
})

t.test('the figures of the benchmarks are those of the last run', async t => {
  const { text } = page('docs/benchmarks.md')
  const results = readFileSync(`${ROOT}bench/results/results.md`, 'utf8')
  t.match(results, /\*\*fastify-graceful\*\*/)
  for (const line of results.split('\n')) t.ok(text.includes(line), line)
})

t.test('the figures of the reconnects are those of the last run', async t => {
  const results = JSON.parse(readFileSync(`${ROOT}bench/reconnects/results.json`, 'utf8')) as Reconnects
  const { text } = page('docs/long-lived-connections.md')
  for (const line of reconnects(results).split('\n')) t.ok(text.includes(line), line)
})

t.test('the table of attacks is that of the last run, with a row for each attack, and each is within its bounds', async t => {
  const results = JSON.parse(readFileSync(`${ROOT}test/hostile/results.json`, 'utf8')) as Result[]
  const { text } = page('docs/security.md')
  t.equal(withTable(text, results), text)
  t.strictSame(results.map(({ attack }) => attack), Object.keys(ATTACKS))
  for (const { attack, time, limit, running, shutdown } of results) {
    t.ok(time <= limit, attack)
    t.ok(Math.max(running, shutdown) <= (ATTACKS[attack]?.memory ?? 0), attack)
  }
})

t.test('the table of other plugins has a row for each test, with the versions tested', async t => {
  const ecosystem = `${ROOT}test/ecosystem/`
  const { dependencies } = JSON.parse(readFileSync(`${ecosystem}packages/package.json`, 'utf8')) as { dependencies: Record<string, string> }
  const table = [...page('docs/compatibility.md').text.matchAll(/^\| \[([^\]]+)\]\(\.\.\/test\/ecosystem\/(.+?\.test\.ts)\)[^|]* \| ([^|]+) \|/gm)]
  t.strictSame(new Set(table.map(([, , file]) => file)), new Set(readdirSync(ecosystem).filter(file => file.endsWith('.test.ts'))))
  for (const [, name = '', version] of page('docs/recipes.md').text.matchAll(/tests \w+ with (\S+) (\d+\.\d+\.\d+)/g)) {
    t.equal(version, dependencies[name], name)
  }
  for (const [, name = '', , versions = ''] of table) {
    // A version without a name is that of the row's package.
    for (const [, other = name, version] of versions.matchAll(/(?:([@\w/-]+) )?(\d+\.\d+\.\d+)/g)) {
      t.equal(version, dependencies[other], other)
    }
  }
})
