// The images. None is pulled: the base is made of Debian's packages and of Node.js from npm, and has the name that is in the Dockerfiles.

import type { Podman } from './podman.ts'
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { page, ROOT } from '../pages.ts'
import { buildPlugin, installPackages, run } from '../packages.ts'

/** Its name in the Dockerfiles, as Podman completes it. */
const BASE = 'docker.io/library/node:24-slim'
export const EXAMPLE = 'localhost/example:latest'
/** Built with the Dockerfile of docs/deployment.md, for the services in `programs`. */
export const DOCS = 'localhost/docs:latest'

/** Makes the archive of the base image, or returns it from the cache: a small Debian with Node.js and npm, as in node:24-slim, and tini. */
function baseArchive (): string {
  const { modules } = installPackages('containers')
  const archive = join(dirname(modules), 'base.tar')
  if (existsSync(archive)) return archive
  const node = `node-linux-${process.arch}`
  const hooks = [
    'chroot "$1" useradd --uid 1000 --create-home node',
    `copy-in ${join(modules, node, 'bin/node')} /usr/local/bin`,
    'mkdir -p "$1/usr/local/lib/node_modules"',
    `copy-in ${join(modules, 'npm')} /usr/local/lib/node_modules`,
    'ln -s ../lib/node_modules/npm/bin/npm-cli.js "$1/usr/local/bin/npm"',
    'ln -s ../lib/node_modules/npm/bin/npx-cli.js "$1/usr/local/bin/npx"'
  ]
  run('mmdebstrap', [
    '--quiet', '--format=tar', '--variant=minbase', '--include=libstdc++6,tini',
    ...['doc', 'man', 'locale'].map(name => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
    ...hooks.map(hook => `--customize-hook=${hook}`),
    'bookworm', `${archive}.part`
  ], dirname(archive))
  renameSync(`${archive}.part`, archive)
  return archive
}

/** Rejects if containers do not run here. */
export async function importBase (podman: Podman): Promise<void> {
  await podman.call('--version')
  await podman.call('import', baseArchive(), BASE)
  await podman.call('run', '--rm', '--init', '--network=slirp4netns', BASE, 'node', '--version')
}

export async function buildExample (podman: Podman): Promise<void> {
  await build(podman, EXAMPLE, join(ROOT, 'example/docker/Dockerfile'), ROOT)
}

/** The Dockerfile and the program for node:cluster are those of the page. */
export async function buildDocs (podman: Podman): Promise<void> {
  const context = podman.folder('docs')
  const { fences } = page('docs/deployment.md')
  const codeWith = (language: string, text: string) => fences.find(fence => fence.language === language && fence.code.includes(text))?.code ?? ''
  writeFileSync(join(context, 'Dockerfile'), codeWith('dockerfile', 'FROM'))
  cpSync(fileURLToPath(new URL('programs', import.meta.url)), context, { recursive: true })
  writeFileSync(join(context, 'cluster.js'), codeWith('js', 'node:cluster'))

  const { dependencies, devDependencies, overrides } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies: object, devDependencies: { fastify: string }, overrides: object
  }
  writeFileSync(join(context, 'package.json'), JSON.stringify({
    name: 'api', private: true, type: 'module', scripts: { start: 'node server.js' },
    dependencies: { ...dependencies, fastify: devDependencies.fastify },
    overrides
  }))
  run('npm', ['install', '--package-lock-only', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'], context)
  // The plugin is not on npm yet, so it is copied with the sources.
  const plugin = join(context, 'node_modules/fastify-graceful')
  mkdirSync(plugin, { recursive: true })
  buildPlugin()
  for (const name of ['package.json', 'main.cjs', 'dist']) cpSync(join(ROOT, name), join(plugin, name), { recursive: true })
  await build(podman, DOCS, join(context, 'Dockerfile'), context)
}

/** npm takes the packages from a copy of this machine's cache, and what is missing there from the same registry. */
async function build (podman: Podman, image: string, file: string, context: string): Promise<void> {
  const setting = (name: string) => execFileSync('npm', ['config', 'get', name], { encoding: 'utf8' }).trim()
  const npmrc = join(podman.directory, 'npmrc')
  writeFileSync(npmrc, `prefer-offline=true\nregistry=${setting('registry')}\n`)
  const cache = podman.folder('npm/_cacache')
  const origin = join(setting('cache'), '_cacache')
  // The packages, which npm does not change, as links if that is possible; the index as a copy.
  run('sh', ['-c', 'cp -alT "$1" "$2" || cp -aT "$1" "$2"', '-', join(origin, 'content-v2'), join(cache, 'content-v2')], cache)
  run('cp', ['-a', join(origin, 'index-v5'), cache], cache)
  await podman.call('build', '--pull=never', '--network=host', `--volume=${dirname(cache)}:/root/.npm`, `--volume=${npmrc}:/root/.npmrc:ro`,
    `--tag=${image}`, `--file=${file}`, context)
  rmSync(dirname(cache), { recursive: true })
}
