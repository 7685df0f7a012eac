// The packed package with test runners, compilers, bundlers and the oldest Fastify: `npm run test:package`.
//
// test/system/package.test.ts has what is quick. What these tests need is installed into a cache, as for the other suites.

import t from 'tap'
import type { Test } from 'tap'
import type { ChildProcess } from 'node:child_process'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { ROOT, installPackages, run } from '../packages.ts'

t.setTimeout(600_000)
const { modules } = installPackages('installed')
const folder = mkdtempSync(join(dirname(modules), 'run-'))
t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
cpSync(fileURLToPath(new URL('project', import.meta.url)), folder, { recursive: true })
for (const file of ['user.mts', 'user.cts']) copyFileSync(join(folder, 'user.ts'), join(folder, file))
const plugin = join(folder, 'node_modules/fastify-graceful')
mkdirSync(plugin, { recursive: true })
run('npm', ['pack', '--silent', '--pack-destination', folder], ROOT)
run('sh', ['-c', `tar xzf *.tgz -C ${plugin} --strip-components=1`], folder)

/** Without what tap adds to the environment of Node processes. */
const env = { ...process.env, NODE_OPTIONS: '' }

/** Runs Node. Returns its output, or fails with it. */
async function node (...args: string[]): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { cwd: folder, env }).catch((error: unknown) => {
    const failed = error as Error & Record<'stdout' | 'stderr', string>
    throw new Error(`${failed.message}\n${failed.stdout}${failed.stderr}`)
  })
  return stdout + stderr
}

/** Runs a package's program. */
async function tool (program: string, ...args: string[]): Promise<string> {
  return await node(join(modules, program), ...args)
}

/** Starts a program of the project, which writes its port. */
async function serve (t: Test, file: string, fastify = 'fastify'): Promise<{ child: ChildProcess, port: number }> {
  const child = spawn(process.execPath, [file], { cwd: folder, env: { ...env, FASTIFY: fastify }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => { child.kill('SIGKILL') })
  const [line] = await once(child.stdout as NodeJS.ReadableStream, 'data') as [Buffer]
  return { child, port: Number(line.toString()) }
}

/** The status of a request, or the code of its error. */
async function ask (port: number, agent: Agent): Promise<number | string> {
  return await new Promise(resolve => {
    const fail = (error: NodeJS.ErrnoException) => { resolve(error.code ?? error.message) }
    request({ port, agent }, response => {
      response.resume().on('error', fail).on('end', () => { resolve(response.statusCode ?? 0) })
    }).on('error', fail).end()
  })
}

/**
 * Sends SIGTERM to a program under traffic. Each request has a response, until its client is sent elsewhere, by a 503 or because
 * nothing listens any more. The program exits with 0.
 */
async function drains (t: Test, file: string, fastify?: string): Promise<void> {
  const { child, port } = await serve(t, file, fastify)
  const exit = once(child, 'exit')
  const agent = new Agent({ keepAlive: true })
  const outcomes: Array<number | string> = []
  const client = async (): Promise<void> => {
    for (let outcome: number | string = 200; outcome === 200;) {
      outcomes.push(outcome = await ask(port, agent))
      if (outcomes.length === 100) child.kill('SIGTERM')
    }
  }
  await Promise.all(Array.from({ length: 10 }, client))
  t.strictSame(await exit, [0, null])
  t.strictSame(outcomes.filter(outcome => ![200, 503, 'ECONNREFUSED'].includes(outcome)), [])
  t.ok(outcomes.length > 100, 'some requests come after SIGTERM')
}

t.test('drains under traffic with the newest Fastify', async t => { await drains(t, 'service.cjs') })

t.test('drains under traffic with Fastify 5.0.0', async t => { await drains(t, 'service.cjs', 'fastify-5.0') })

t.test('drains under traffic in a bundle of esbuild', async t => {
  // In an ES module, esbuild needs a require() for what it does not bundle.
  const banner = 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url)'
  for (const [format, file, ...more] of [['cjs', 'esbuild.cjs'], ['esm', 'esbuild.mjs', `--banner:js=${banner}`]] as const) {
    await tool('esbuild/bin/esbuild', 'service.mjs', '--bundle', '--platform=node', `--format=${format}`, `--outfile=${file}`, ...more)
    await drains(t, file)
  }
})

t.test('drains under traffic in a bundle of Rollup', async t => {
  await tool('rollup/dist/bin/rollup', '--config', 'rollup.config.mjs')
  await drains(t, 'rollup.cjs')
})

const jest = async (file: string) => { await tool('jest/bin/jest.js', '--rootDir', folder, '--testMatch', `<rootDir>/${file}`) }
const vitest = async (file: string, environment = 'node') => {
  await tool('vitest/vitest.mjs', 'run', '--root', folder, '--environment', environment, file)
}

t.test('serves and closes in Jest, in CommonJS', async () => { await jest('jest.cjs') })

t.test('holds nothing of a test file of Jest that has closed its instance', async t => {
  const project = (name: number) => ({ displayName: String(name), rootDir: folder, testMatch: ['<rootDir>/jest-memory.cjs'] })
  const output = await tool('jest/bin/jest.js', '--runInBand', '--config', JSON.stringify({ projects: [1, 2, 3, 4, 5].map(project) }))
  t.match(output, 'test files in this process: 5')
})

t.test('serves and closes in vitest', async () => { await vitest('./vitest.test.mjs') })

// It replaces AbortController and other globals.
t.test('serves and closes in vitest in a DOM environment', async () => { await vitest('./vitest.test.mjs', 'happy-dom') })

/** The test runners with which fastify-graceful/testing is tested: each runs the same test, and its process ends by itself. */
const runners: Record<string, () => Promise<void>> = {
  'node:test': async () => { await node('--test', 'testing/node-test.mjs') },
  // Installed beside this test, as it is large.
  tap: async () => {
    symlinkSync(join(ROOT, 'node_modules/tap'), join(folder, 'node_modules/tap'))
    await node('testing/tap.mjs')
  },
  vitest: async () => { await vitest('testing/vitest.test.mjs') },
  'Jest, in CommonJS': async () => { await jest('testing/jest.cjs') }
}
for (const [runner, start] of Object.entries(runners)) t.test(`fastify-graceful/testing tests a deploy with ${runner}`, start)

/** What `moduleResolution` may be with a `module`. */
const SETTINGS = { node16: 'node16', nodenext: 'nodenext', esnext: 'bundler' }

for (const [version, commonjs] of [['5.4', 'node10'], ['5.9', 'node10'], ['6', 'bundler'], ['7', 'bundler']] as const) {
  t.test(`compiles with TypeScript ${version}`, async t => {
    for (const [module, resolution] of Object.entries({ ...SETTINGS, commonjs })) {
      const files = module.startsWith('node') ? ['user.mts', 'user.cts'] : ['user.ts']
      await tool(`typescript-${version}/bin/tsc`, '--noEmit', '--strict', '--target', 'es2022', '--types', 'node', '--skipLibCheck',
        '--esModuleInterop', '--module', module, '--moduleResolution', resolution, ...files)
      t.pass(`module ${module}, moduleResolution ${resolution}`)
    }
  })
}
