// README.md and docs/*.md against the code: what they show compiles and runs, and what they list is what there is.

import t from 'tap'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { parseAllDocuments } from 'yaml'
import { runNode } from './helpers.ts'
import { anchors, links, page, pages, ROOT } from './pages.ts'

const LANGUAGES = new Set([
  'ts', 'js', 'cjs', 'json', 'yaml', 'sh', 'text', 'http', 'nginx', 'haproxy', 'ini', 'dockerfile', 'diff', 'promql'
])

const all = pages()
const snippets = all.flatMap(({ path, fences }) => fences.map(fence => ({ path, ...fence, name: `${path}:${fence.line}` })))

/** A folder below the project, so that snippets find its packages. */
const folder = `${ROOT}.tap/docs-${process.pid}`
mkdirSync(folder, { recursive: true })
t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
cpSync(`${ROOT}test/fixtures/docs`, folder, { recursive: true })
cpSync(`${ROOT}test/fixtures/docs/packages`, `${folder}/node_modules`, { recursive: true })
writeFileSync(`${folder}/tsconfig.json`, JSON.stringify({
  compilerOptions: {
    target: 'es2022',
    lib: ['es2023'],
    module: 'nodenext',
    moduleDetection: 'force',
    types: ['node'],
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    allowJs: true,
    checkJs: true,
    allowImportingTsExtensions: true,
    experimentalDecorators: true,
    paths: { 'fastify-graceful': ['../../index.ts'] }
  },
  include: ['*.ts', '*.mts', '*.mjs']
}))
/** Where a snippet is written, with its line numbers on the page. */
const fileOf = ({ path, line, language }: typeof snippets[number]) => {
  const extension = { ts: 'mts', js: 'mjs' }[language] ?? language
  return `${folder}/${path.replaceAll(/[/.]/g, '-')}-${line}.${extension}`
}
for (const snippet of snippets) {
  if (['ts', 'js', 'cjs'].includes(snippet.language)) writeFileSync(fileOf(snippet), '\n'.repeat(snippet.line) + snippet.code)
}

t.test('each block of code names a language that is checked', async t => {
  t.ok(snippets.length > 3)
  for (const { language, name } of snippets) t.ok(LANGUAGES.has(language), `${name}: ${language}`)
})

t.test('snippets compile against the types of the plugin', async t => {
  const { stdout } = spawnSync('env', ['-u', 'NODE_OPTIONS', process.execPath, `${ROOT}node_modules/.bin/tsc`, '-p', folder], { encoding: 'utf8' })
  t.equal(stdout, '')
})

t.test('CommonJS, JSON and YAML snippets can be parsed', async t => {
  for (const snippet of snippets) {
    const { language, name, code } = snippet
    if (language === 'cjs') t.equal(spawnSync(process.execPath, ['--check', fileOf(snippet)], { encoding: 'utf8' }).stderr, '', name)
    if (language === 'json') t.doesNotThrow(() => JSON.parse(code) as unknown, name)
    if (language === 'yaml') for (const { errors } of parseAllDocuments(code)) t.strictSame(errors, [], name)
  }
})

async function freePort (): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  const { port } = server.address() as { port: number }
  await new Promise(resolve => { server.close(resolve) })
  return port
}

/** Sends requests until the service listens. Resolves to the status, or to NaN if it exits before. */
async function health (port: number, exit: Promise<unknown>): Promise<number> {
  const gone = exit.then(() => NaN)
  for (;;) {
    const answer = fetch(`http://127.0.0.1:${port}/health`).then(({ status }) => status, () => undefined)
    const status = await Promise.race([gone, answer])
    if (status !== undefined) return status
    await new Promise(resolve => { setTimeout(resolve, 50) })
  }
}

t.test('services', async t => {
  const services = snippets.filter(({ runs }) => runs)
  t.jobs = services.length
  for (const snippet of services) {
    void t.test(`${snippet.name} serves, and exits with 0 on SIGTERM`, async t => {
      const port = await freePort()
      const service = runNode(t, [fileOf(snippet)], { PORT: String(port), TSX_TSCONFIG_PATH: `${folder}/tsconfig.json` })
      t.equal(await health(port, service.exit), 200)
      service.kill('SIGTERM')
      t.strictSame(await service.exit, { code: 0, signal: null }, service.output())
    })
  }
})

t.test('relative links lead to files, and to headings in them', async t => {
  const markdown = new Map(all.map(one => [one.path, anchors(one)]))
  for (const one of [...all, page('CONTRIBUTING.md'), page('CHANGELOG.md')]) {
    for (const link of links(one).filter(target => !/^[a-z]+:/.test(target))) {
      const { pathname, hash } = new URL(link, `file:///${one.path}`)
      const path = decodeURIComponent(pathname.slice(1))
      t.ok(existsSync(`${ROOT}${path}`), `${one.path}: ${link}`)
      if (hash === '') continue
      const known = markdown.get(path) ?? anchors(page(path))
      t.ok(known.has(decodeURIComponent(hash.slice(1))), `${one.path}: ${link}`)
    }
  }
})
