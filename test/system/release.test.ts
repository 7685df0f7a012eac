// npm run release, on a clone of this checkout.

import t from 'tap'
import { execFile, execFileSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const clone = join(t.testdir({}), 'clone')
const ADDRESS = ['author', 'repository', 'bugs', 'homepage']
const bin = join(clone, '../bin')
const calls = join(clone, '../calls')
const git = (...args: string[]) => execFileSync('git', ['-c', 'user.name=Test', '-c', 'user.email=test@example.com', ...args], { cwd: clone, encoding: 'utf8' })
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

// A repository with the files of this checkout, including those that are not committed yet.
mkdirSync(clone)
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], { cwd: root, encoding: 'utf8' }).split('\0')
for (const file of files) if (file !== '') cpSync(join(root, file), join(clone, file), { recursive: true })
symlinkSync(join(root, 'node_modules'), join(clone, 'node_modules'))
git('init', '--quiet')
// .gitignore ignores only a folder.
writeFileSync(join(clone, '.git/info/exclude'), '/node_modules\n')
commit()

// A wrapper before npm in the PATH, which records its arguments and never publishes.
mkdirSync(bin)
const npm = execFileSync('sh', ['-c', 'command -v npm'], { encoding: 'utf8' }).trim()
writeFileSync(join(bin, 'npm'), `#!/bin/sh\necho "$*" >> '${calls}'\n[ "$1" = publish ] || exec '${npm}' "$@"\n`)
chmodSync(join(bin, 'npm'), 0o755)

function commit (): void {
  git('add', '--all')
  git('commit', '--quiet', '--message', 'As it is')
}

function edit (file: string, change: (text: string) => string): void {
  const path = join(clone, file)
  writeFileSync(path, change(readFileSync(path, 'utf8')))
}

/** By way of `env`, because the test runner adds options to each Node process that it sees started. Nothing that it runs is covered. */
async function release (...args: string[]): Promise<{ code: number, output: string, published: string[] }> {
  rmSync(calls, { force: true })
  const { code, output } = await new Promise<{ code: number, output: string }>(resolve => {
    const command = ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', `PATH=${bin}:${process.env['PATH']}`, process.execPath, '--import=tsx', '.ci/release.ts', ...args]
    execFile('env', command, { cwd: clone }, (error, stdout, stderr) => { resolve({ code: Number(error?.code ?? 0), output: stdout + stderr }) })
  })
  return { code, output, published: readFileSync(calls, 'utf8').split('\n').filter(line => line.startsWith('publish')) }
}

t.test('a dry run shows what would be released, and publishes nothing', async t => {
  const { code, output, published } = await release('--dry-run')
  t.equal(code, 0)
  t.strictSame(published, [])
  t.match(output, `fastify-graceful ${manifest.version}\n`)
  t.match(output, /^Files: \d+, [\d.]+ kB packed, [\d.]+ kB unpacked$/m)
  for (const file of ['README.md', 'dist/index.js', 'main.cjs']) t.match(output, new RegExp(` [\\d.]+ kB  ${file}$`, 'm'))
  t.match(output, /^SBOM: \d+ packages/m)
  t.match(output, /^Dry run: nothing has been published\.$/m)
})

t.test('a release is rejected until package.json, changelog, tag and links are complete', async t => {
  const setAddress = (fields: object) => {
    edit('package.json', text => {
      const others = Object.entries(JSON.parse(text) as object).filter(([name]) => !ADDRESS.includes(name))
      return JSON.stringify({ ...Object.fromEntries(others), ...fields }, null, 2)
    })
  }
  const problemsOf = async () => {
    const { code, output, published } = await release()
    t.equal(code, 1)
    t.strictSame(published, [])
    const [, list = ''] = output.split('It cannot be released:\n')
    return list.trim().split('\n')
  }
  const incomplete = ADDRESS.map(field => new RegExp(`^- package\\.json needs the field ${field}, `))
  setAddress({ author: 'Someone', repository: 'github:someone/fastify-graceful', bugs: { url: '' }, homepage: '' })
  t.match(await problemsOf(), incomplete)
  setAddress({ author: 'Someone (https://example.com)' })
  edit('CHANGELOG.md', () => '# Changelog\n\n## [Unreleased]\n\n- A change\n')
  edit('README.md', text => `${text}\n[nowhere](docs/nowhere.md#here)\n<img src='example/timeline.svg'>\n`)
  t.match(await problemsOf(), [
    ...incomplete.slice(1),
    '- some files are not committed',
    `- the commit has no tag v${manifest.version}`,
    `- CHANGELOG.md has no section "${manifest.version} - DATE"`,
    '- CHANGELOG.md has changes under "Unreleased"',
    '- README.md refers to docs/nowhere.md, which is no file',
    '- README.md in the package refers to example/timeline.svg, which does not work on npm'
  ])
})

t.test('a release publishes the package with provenance, and with links and pictures that work anywhere', async t => {
  const address = 'https://github.com/someone/fastify-graceful'
  edit('package.json', text => JSON.stringify({
    ...JSON.parse(text) as object,
    author: { name: 'Someone', email: 'someone@example.com' },
    repository: { type: 'git', url: `git+${address}.git` },
    bugs: `${address}/issues`,
    homepage: `${address}#readme`
  }, null, 2))
  edit('CHANGELOG.md', () => `# Changelog\n\n## [Unreleased]\n\n## [${manifest.version}] - 2026-12-01\n\n- A change\n\n## [0.0.1] - 2026-11-01\n\n- Another\n`)
  edit('README.md', () => [
    '[page](LICENSE#text), ![picture](example/timeline.svg), [`code`](./lib/), [![both](example/timeline.svg)](index.ts)',
    '<source srcset="example/timeline.svg"> <a href="types/index.ts">types</a> [elsewhere](https://example.com/a) [here](#here)',
    '[reference]: CHANGELOG.md',
    '`checks[name](input)`', '```js', 'handlers[name](request)', '```'
  ].join('\n'))
  commit()
  git('tag', `v${manifest.version}`)
  const { code, output, published } = await release()
  t.equal(code, 0, output)
  const tarball = `.release/fastify-graceful-${manifest.version}.tgz`
  t.strictSame(published, [`publish ./${tarball} --provenance --access public`])
  t.equal(readFileSync(join(clone, '.release/notes.md'), 'utf8'), '- A change\n')
  t.equal(git('status', '--porcelain'), '', 'no file of the repository has changed')

  const unpack = (file: string) => execFileSync('tar', ['-xzOf', tarball, `package/${file}`], { cwd: clone, encoding: 'utf8' })
  const [blob, raw] = ['blob', 'raw'].map(kind => `${address}/${kind}/v${manifest.version}`)
  t.equal(unpack('README.md'), [
    `[page](${blob}/LICENSE#text), ![picture](${raw}/example/timeline.svg), [\`code\`](${blob}/lib), [![both](${raw}/example/timeline.svg)](${blob}/index.ts)`,
    `<source srcset="${raw}/example/timeline.svg"> <a href="${blob}/types/index.ts">types</a> [elsewhere](https://example.com/a) [here](#here)`,
    `[reference]: ${blob}/CHANGELOG.md`,
    '`checks[name](input)`', '```js', 'handlers[name](request)', '```'
  ].join('\n'))
  const packed = JSON.parse(unpack('package.json')) as object
  t.notOk('devDependencies' in packed || 'scripts' in packed || 'workspaces' in packed)
  const sbom = JSON.parse(readFileSync(join(clone, '.release/sbom.cdx.json'), 'utf8')) as { components: Array<{ name: string }> }
  const names = new Set(sbom.components.map(({ name }) => name))
  for (const name of ['close-with-grace', 'fastify', 'fastify-plugin']) t.ok(names.has(name), name)
  t.notOk(names.has('tap'))
})
