// Publishes the version that package.json names: npm run release. With `-- --dry-run`, it only shows what would be published.
//
// The README on npm has no repository around it, so its relative links and images are made absolute, to the files of the
// released tag. The published package.json has no fields for development.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { parseArgs } from 'node:util'

/** What must be filled in before the first release, because it depends on the project's public address. */
const REQUIRED = {
  // Reports under CODE_OF_CONDUCT.md go to the author.
  author: { form: /\S@\S|https?:\/\/\S/, example: 'a name with an e-mail address or a URL' },
  repository: { form: /^git\+https:\/\/\S+\.git$/, example: 'git+https://….git' },
  bugs: { form: /^https:\/\/\S+$/, example: 'https://…' },
  homepage: { form: /^https:\/\/\S+$/, example: 'https://…' }
}
const DEVELOPMENT = ['scripts', 'devDependencies', 'workspaces', 'overrides', 'allowScripts'] as const
const OUT = '.release'
/** The parts of a page that are no prose. */
const CODE = /(^```[^]*?^```|`[^`\n]*`)/gm

interface Manifest extends Partial<Record<(typeof DEVELOPMENT)[number], unknown>> {
  name: string
  version: string
  author?: string | { name?: string, email?: string, url?: string }
  repository?: string | { url?: string }
  bugs?: string | { url?: string }
  homepage?: string
}
interface Packed { filename: string, size: number, unpackedSize: number, files: Array<{ path: string, size: number }> }

const { 'dry-run': isDryRun } = parseArgs({ options: { 'dry-run': { type: 'boolean', default: false } } }).values
const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest
const tag = `v${manifest.version}`
const problems: string[] = []

const { author, repository, bugs, homepage } = manifest
const filled: Record<keyof typeof REQUIRED, string | undefined> = {
  author: typeof author === 'string' ? author : author?.email ?? author?.url,
  // npm's short forms have no address to which links could be made absolute.
  repository: typeof repository === 'string' ? repository : repository?.url,
  bugs: typeof bugs === 'string' ? bugs : bugs?.url,
  homepage
}
for (const field of Object.keys(REQUIRED) as Array<keyof typeof REQUIRED>) {
  const { form, example } = REQUIRED[field]
  if (!form.test(filled[field] ?? '')) problems.push(`package.json needs the field ${field}, ${example}: see CONTRIBUTING.md`)
}
if (run('git', 'status', '--porcelain') !== '') problems.push('some files are not committed')
if (!run('git', 'tag', '--points-at', 'HEAD').split('\n').includes(tag)) problems.push(`the commit has no tag ${tag}`)
const changes = readChanges()
const { packed, urls } = pack()
const components = writeSbom()

console.log(`${manifest.name} ${manifest.version}

Changes:

${changes}

Files: ${packed.files.length}, ${kilobytes(packed.size)} packed, ${kilobytes(packed.unpackedSize)} unpacked
${packed.files.map(({ path, size }) => `${kilobytes(size).padStart(10)}  ${path}`).join('\n')}

Links and pictures of the README on npm: ${urls.length}
${urls.map(url => `  ${url}`).join('\n')}

SBOM: ${components} packages, Fastify included
`)
if (problems.length > 0) console.error(`It cannot be released:\n${problems.map(problem => `- ${problem}`).join('\n')}`)
if (isDryRun) console.log('Dry run: nothing has been published.')
else if (problems.length > 0) process.exitCode = 1
else execFileSync('npm', ['publish', `./${OUT}/${packed.filename}`, '--provenance', '--access', 'public'], { stdio: 'inherit' })

function kilobytes (bytes: number): string {
  return `${(bytes / 1_000).toFixed(1)} kB`
}

function run (command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 1 << 26 }).trimEnd()
}

/** The changelog's section for this version. In a dry run without one, the unreleased section. */
function readChanges (): string {
  const sections = new Map(readFileSync('CHANGELOG.md', 'utf8').split(/^## /m).slice(1).map(section => {
    const [heading = '', ...lines] = section.split('\n')
    return [heading.replace(/\[(.+)\]/, '$1'), lines.join('\n').trim()]
  }))
  const unreleased = sections.get('Unreleased') ?? ''
  const heading = [...sections.keys()].find(key => key.startsWith(`${manifest.version} - `))
  if (heading === undefined) problems.push(`CHANGELOG.md has no section "${manifest.version} - DATE"`)
  if (unreleased !== '') problems.push('CHANGELOG.md has changes under "Unreleased"')
  const section = heading === undefined ? unreleased : sections.get(heading) ?? ''
  mkdirSync(OUT, { recursive: true })
  writeFileSync(join(OUT, 'notes.md'), `${section}\n`)
  return section
}

/** Creates the tarball as npm packs it, except for the README's links and the fields for development. */
function pack (): { packed: Packed, urls: string[] } {
  rmSync(join(OUT, 'package'), { recursive: true, force: true })
  const first = parsePacked(run('npm', 'pack', '--json', '--silent', '--pack-destination', OUT))
  run('tar', '-xzf', join(OUT, first.filename), '-C', OUT)
  const published = Object.fromEntries(Object.entries(manifest).filter(([field]) => !DEVELOPMENT.some(other => other === field)))
  writeFileSync(join(OUT, 'package/package.json'), `${JSON.stringify(published, null, 2)}\n`)
  const { text, links } = makeAbsolute(readFileSync('README.md', 'utf8'))
  writeFileSync(join(OUT, 'package/README.md'), text)
  const last = parsePacked(run('npm', 'pack', `./${OUT}/package`, '--json', '--silent', '--pack-destination', OUT))
  checkLinks(run('tar', '-xzOf', join(OUT, last.filename), 'package/README.md'))
  return { urls: links, packed: last }
}

/** Looks at the README as it is packed, for any form of link, also one that `makeAbsolute()` does not know. */
function checkLinks (markdown: string): void {
  const prose = markdown.replaceAll(CODE, '')
  for (const [, target = ''] of prose.matchAll(/(?:\]\(\s*|^\s*\[[^\]]+\]:\s*|\b(?:src|srcset|href)\s*=\s*)["'<]?([^\s"'<>)]+)/gim)) {
    if (!/^(?:https:|mailto:|#)/.test(target)) problems.push(`README.md in the package refers to ${target}, which does not work on npm`)
  }
}

/** npm prints the output of the build first, then a list, or an object with a member for each package. */
function parsePacked (output: string): Packed {
  const [first] = Object.values(JSON.parse(output.slice(output.search(/^[[{]/m))) as Record<string, Packed>)
  if (first === undefined) throw new Error(`npm packed nothing: ${output}`)
  return first
}

function makeAbsolute (markdown: string): { text: string, links: string[] } {
  const url = filled.repository ?? ''
  const address = REQUIRED.repository.form.test(url) ? url.replace(/^git\+/, '').replace(/\.git$/, '') : 'https://github.com/OWNER/NAME'
  const files = run('git', 'ls-files').split('\n')
  const links: string[] = []
  const absolute = (target: string, isPicture: boolean): string => {
    const [path = '', fragment] = target.split('#')
    if (path === '' || /^[a-z]+:/.test(path)) return target
    const file = posix.normalize(path).replace(/\/$/, '')
    if (!files.some(name => name === file || name.startsWith(`${file}/`))) problems.push(`README.md refers to ${path}, which is no file`)
    const link = `${address}/${isPicture ? 'raw' : 'blob'}/${tag}/${file}${fragment === undefined ? '' : `#${fragment}`}`
    links.push(link)
    return link
  }
  const text = markdown.split(CODE).map((part, index) => index % 2 === 1 ? part : part
    .replace(/(!\[[^\]]*)?(\]\()([^\s)]+)/g, (_all, picture: string | undefined, open: string, target: string) =>
      `${picture ?? ''}${open}${absolute(target, picture !== undefined)}`)
    .replace(/^(\[[^\]]+\]: +)(\S+)/gm, (_all, name: string, target: string) => `${name}${absolute(target, false)}`)
    .replace(/\b(src|srcset|href)="([^"]+)"/g, (_all, name: string, target: string) => `${name}="${absolute(target, name !== 'href')}"`)
  ).join('')
  return { text, links }
}

/** Writes what an installation of the packed package gets today. Returns the number of packages. */
function writeSbom (): number {
  const folder = join(OUT, 'package')
  run('npm', 'install', '--prefix', folder, '--package-lock-only', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error')
  const sbom = run('npm', 'sbom', '--prefix', folder, '--package-lock-only', '--sbom-format', 'cyclonedx')
  writeFileSync(join(OUT, 'sbom.cdx.json'), `${sbom}\n`)
  return (JSON.parse(sbom) as { components: unknown[] }).components.length
}
