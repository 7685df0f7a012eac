// The package as npm packs it, installed in an empty project.

import t from 'tap'
import { execFile } from 'node:child_process'
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { promisify } from 'node:util'

const execute = promisify(execFile)
/** By way of `env`, because the test runner adds options to each Node process that it sees started. Nothing that they run is covered. */
const run = async (file: string, args: string[], options: object = {}): Promise<{ stdout: string, stderr: string }> =>
  await execute('env', ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', file, ...args], options)
const root = new URL('../..', import.meta.url).pathname
const manifest = JSON.parse(readFileSync(`${root}/package.json`, 'utf8')) as {
  dependencies: object, peerDependencies: object, peerDependenciesMeta: object, engines: object, exports: object
}

// With a package.json of its own: inside this package, the package's name would resolve to this checkout.
const directory = t.testdir({ 'package.json': '{}' })
const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', directory], { cwd: root })
const [packed] = Object.values(JSON.parse(stdout.slice(stdout.search(/^[[{]/m))) as object) as
  Array<{ filename: string, files: Array<{ path: string }> }>
const modules = `${directory}/node_modules`
mkdirSync(`${modules}/fastify-graceful`, { recursive: true })
await run('tar', ['xzf', `${directory}/${packed?.filename}`, '-C', `${modules}/fastify-graceful`, '--strip-components=1'])
for (const name of ['fastify', 'fastify-plugin', 'close-with-grace', '@fastify', '@types', 'undici-types']) {
  symlinkSync(`${root}/node_modules/${name}`, `${modules}/${name}`)
}

/** Runs a program in the empty project. */
async function program (file: string, source: string): Promise<{ stdout: string, stderr: string }> {
  writeFileSync(`${directory}/${file}`, source)
  return await run(process.execPath, [file], { cwd: directory })
}

t.test('contains what a user needs and nothing else', async t => {
  const files = packed?.files.map(({ path }) => path) ?? []
  t.strictSame(files.toSorted(), [
    'CHANGELOG.md', 'LICENSE', 'README.md', 'dist/index.js', 'dist/package.json', 'dist/prometheus.js', 'dist/testing.js',
    'dist/types/index.d.ts', 'dist/types/prometheus.d.ts', 'dist/types/testing.d.ts', 'main.cjs', 'main.d.cts', 'package.json',
    'prometheus.cjs', 'prometheus.d.cts'
  ])
})

t.test('depends at run time on three packages, and on Fastify 5 as a peer; prom-client is optional', async t => {
  t.strictSame(Object.keys(manifest.dependencies).sort(), ['@fastify/error', 'close-with-grace', 'fastify-plugin'])
  t.strictSame(manifest.peerDependencies, { fastify: '^5.0.0', 'prom-client': '^15.0.0' })
  t.strictSame(manifest.peerDependenciesMeta, { 'prom-client': { optional: true } })
  t.strictSame(manifest.engines, { node: '^20.19.0 || >=22.12.0' })
})

const use = `
  const fastify = Fastify()
  await fastify.register(gracefulPlugin)
  console.log((await fastify.inject('/ready')).body, fastify.hasPlugin('fastify-graceful'))
  await fastify.close()
`
const expected = '{"ready":true,"in_flight_requests":0} true\n'

t.test('works as an ES module, by default and by name', async t => {
  for (const clause of ['gracefulPlugin', '{ gracefulPlugin }']) {
    const { stdout: output, stderr } = await program('esm.mjs', `
      import Fastify from 'fastify'
      import ${clause} from 'fastify-graceful'
      ${use}`)
    t.equal(output, expected)
    t.equal(stderr, '')
  }
})

t.test('works with require(), without a warning, which returns the plugin itself', async t => {
  const { stdout: output, stderr } = await program('cjs.cjs', `
    const Fastify = require('fastify')
    const gracefulPlugin = require('fastify-graceful')
    if (gracefulPlugin.default !== gracefulPlugin || gracefulPlugin.gracefulPlugin !== gracefulPlugin) throw new Error('not itself')
    ;(async () => {${use}})()`)
  t.equal(output, expected)
  t.equal(stderr, '')
})

t.test('without prom-client, the error says what to install', async t => {
  // Outside of the checkout, in whose node_modules there is a prom-client.
  const elsewhere = mkdtempSync(`${tmpdir()}/graceful-`)
  t.teardown(() => { rmSync(elsewhere, { recursive: true }) })
  cpSync(`${modules}/fastify-graceful`, `${elsewhere}/node_modules/fastify-graceful`, { recursive: true })
  symlinkSync(`${root}/node_modules/fastify-plugin`, `${elsewhere}/node_modules/fastify-plugin`)
  writeFileSync(`${elsewhere}/without.cjs`, `
    try { require('fastify-graceful/prometheus') } catch (error) { console.log(error.code, error.message) }`)
  const { stdout: output } = await run(process.execPath, [`${elsewhere}/without.cjs`])
  t.match(output, /^MODULE_NOT_FOUND .*npm install prom-client$/m)
})

t.test('the metrics work with import, by default and by name, and with require()', async t => {
  const useMetrics = `
    const fastify = Fastify()
    await fastify.register(gracefulPlugin)
    const register = new Registry()
    await fastify.register(gracefulMetrics, { register })
    await fastify.close()
    console.log(await register.getSingleMetricAsString('fastify_graceful_shutdown_duration_seconds'))`
  for (const clause of ['gracefulMetrics', '{ gracefulMetrics }']) {
    const { stdout: output } = await program('metrics.mjs', `
      import Fastify from 'fastify'
      import gracefulPlugin from 'fastify-graceful'
      import ${clause} from 'fastify-graceful/prometheus'
      import { Registry } from 'prom-client'
      ${useMetrics}`)
    t.match(output, /^fastify_graceful_shutdown_duration_seconds_count 1$/m)
  }
  const { stdout: output } = await program('metrics.cjs', `
    const Fastify = require('fastify')
    const gracefulPlugin = require('fastify-graceful')
    const gracefulMetrics = require('fastify-graceful/prometheus')
    const { Registry } = require('prom-client')
    if (gracefulMetrics.default !== gracefulMetrics || gracefulMetrics.gracefulMetrics !== gracefulMetrics) throw new Error('not itself')
    ;(async () => {${useMetrics}})()`)
  t.match(output, /^fastify_graceful_shutdown_duration_seconds_count 1$/m)
})

t.test('loads two files besides its dependencies, and no more when it is registered', async t => {
  const { stdout: output } = await program('loading.cjs', `
    const fastify = require('fastify')()
    for (const name of ['fastify-plugin', 'close-with-grace', '@fastify/error']) require(name)
    const before = new Set(Object.keys(require.cache))
    const loaded = () => Object.keys(require.cache).filter(file => !before.has(file)).map(file => file.split('fastify-graceful/').pop())
    const gracefulPlugin = require('fastify-graceful')
    const imported = loaded()
    ;(async () => {
      await fastify.register(gracefulPlugin)
      console.log(JSON.stringify([imported, loaded()]))
    })()`)
  const files = ['main.cjs', 'dist/index.js']
  t.strictSame(JSON.parse(output), [files, files])
})

t.test('fastify-graceful/testing is one file, and tests an instance of the plugin that is loaded separately', async t => {
  const { stdout: output, stderr } = await program('testing.mjs', `
    import { createRequire } from 'node:module'
    import { testShutdown } from 'fastify-graceful/testing'
    const { cache } = createRequire(import.meta.url)
    console.log(Object.keys(cache).filter(file => file.includes('fastify-graceful/')).map(file => file.split('fastify-graceful/').pop()).join())
    const { default: gracefulPlugin } = await import('fastify-graceful')
    const { default: Fastify } = await import('fastify')
    const app = Fastify()
    await app.register(gracefulPlugin)
    const shutdown = await testShutdown(app)
    const held = await shutdown.hold('/ready')
    shutdown.signal('SIGTERM')
    console.log((await held.release()).status, (await shutdown.report).reason, process.listenerCount('SIGTERM'), process.exitCode)`)
  t.equal(output, 'dist/testing.js\n503 SIGTERM 0 undefined\n')
  t.equal(stderr, '')
})

t.test('an error names the function of the plugin that threw it', async t => {
  const { stdout: output } = await program('stack.mjs', `
    import Fastify from 'fastify'
    import gracefulPlugin from 'fastify-graceful'
    await Fastify().register(gracefulPlugin, { drainTimeout: -1 }).ready().catch(error => { console.log(error.stack) })`)
  t.match(output, /at milliseconds .*at resolveOptions .*at graceful .*dist\/index\.js/s)
})

t.test('two copies in one process share one listener and one close-with-grace', async t => {
  const copy = `${modules}/fastify-graceful-copy`
  await run('cp', ['-r', `${modules}/fastify-graceful`, copy])
  const { stdout: output } = await program('copies.mjs', `
    import Fastify from 'fastify'
    import one from 'fastify-graceful'
    import two from './node_modules/fastify-graceful-copy/main.cjs'
    for (const plugin of [one, two]) {
      const app = Fastify()
      await app.register(plugin)
      app.registerShutdownCallback(async () => {
        await new Promise(resolve => setTimeout(resolve, plugin === one ? 50 : 150))
        console.log(plugin === one ? 'one' : 'two')
      })
      await app.listen({ port: 0, host: '127.0.0.1' })
    }
    console.log(process.listenerCount('SIGTERM'))
    process.kill(process.pid, 'SIGTERM')`)
  t.equal(output, '1\none\ntwo\n')
})

t.test('its types work for TypeScript users, in ES modules and in CommonJS', async t => {
  const files = ['user.mts', 'user.cts']
  for (const file of files) copyFileSync(`${root}/test/installed/project/user.ts`, `${directory}/${file}`)
  for (const module of ['node16', 'nodenext']) {
    writeFileSync(`${directory}/tsconfig.json`, JSON.stringify({
      compilerOptions: { module, target: 'es2022', strict: true, noEmit: true, skipLibCheck: false, types: ['node'] }, files
    }))
    const { stdout: output } = await run(process.execPath, [`${root}/node_modules/typescript/bin/tsc`, '-p', directory])
      .catch((error: unknown) => error as { stdout: string })
    t.equal(output, '', module)
  }
})

t.test('exports each public type', async t => {
  for (const [types, declarations, least] of [['index', 'main', 10], ['prometheus', 'prometheus', 1]] as const) {
    const source = readFileSync(`${root}/types/${types}.ts`, 'utf8')
    const declared = readFileSync(`${root}/${declarations}.d.cts`, 'utf8')
    const names = [...source.matchAll(/^export (?:type|interface) (\w+)/gm)].map(([, name]) => name)
    t.ok(names.length >= least)
    t.strictSame([...declared.matchAll(/export type (\w+) = types\.\1$/gm)].map(([, name]) => name), names)
  }
})

t.test('passes publint and attw', async t => {
  const tarball = `${directory}/${packed?.filename}`
  await run(process.execPath, [`${root}/node_modules/publint/src/cli.js`, tarball, '--strict'])
  await run(process.execPath, [`${root}/node_modules/@arethetypeswrong/cli/dist/index.js`, tarball])
  t.pass('neither reports a problem')
})
