// The files for orchestrators: they are well formed, and their numbers fit each other and the code.

import t from 'tap'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { builtinModules, createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { readConfig } from '../../example/config.ts'
import { resolveOptions } from '../../lib/options.ts'
import { eventually, Log, RawClient, TYPESCRIPT } from '../helpers.ts'
import { pages } from '../pages.ts'
import { BALANCERS, CHECKS, REMOVAL } from '../rolling/balancers.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string) => readFileSync(`${root}/example/${path}`, 'utf8')
const load = createRequire(import.meta.url)

interface Probe { periodSeconds: number, failureThreshold: number, httpGet: { path: string, port: string } }
interface Container {
  command: string[]
  env: Array<{ name: string, value: string }>
  ports: Array<{ name: string, containerPort: number }>
  startupProbe: Probe
  readinessProbe: Probe
  livenessProbe: Probe
  lifecycle?: { preStop: { sleep: { seconds: number } } }
}
interface Deployment {
  kind: string
  metadata: { labels: object }
  spec: {
    replicas: number
    selector: { matchLabels: object }
    strategy: { rollingUpdate: { maxUnavailable: number } }
    template: { metadata: { labels: object }, spec: { terminationGracePeriodSeconds: number, containers: [Container] } }
  }
}

/** By way of `env`, which becomes the program, because the test runner adds options to each Node process that it sees started. */
const PLAIN_NODE = ['-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', process.execPath]
/** Returns the output of the compiler. */
const tsc = (...args: string[]) => spawnSync('env', [...PLAIN_NODE, `${root}/node_modules/.bin/tsc`, ...args], { encoding: 'utf8' }).stdout

/** The example as JavaScript, built in the same way as in its image. */
const directory = `${root}/.tap/image-${process.pid}`
mkdirSync(directory, { recursive: true })
t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
t.equal(tsc('-p', `${root}/example/docker/tsconfig.json`, '--outDir', `${directory}/dist`), '', 'it is built')

/** The lines of the Dockerfile: instruction and argument. */
const dockerfile = [...read('docker/Dockerfile').matchAll(/^([A-Z]+) (.*)$/gm)].map(([, name = '', value = '']) => ({ name, value }))
const argumentsOf = (name: string) => dockerfile.filter(line => line.name === name).map(({ value }) => value)
/** What the image runs. */
const COMMAND = JSON.parse(argumentsOf('CMD')[0] ?? '[]') as string[]

/** The types of Kubernetes' own schemas, for each manifest. */
const TYPES: Record<string, [module: string, type: string]> = {
  'deployment.yaml': ['kubernetes-models/apps/v1/Deployment', 'Deployment'],
  'deployment-prestop.yaml': ['kubernetes-models/apps/v1/Deployment', 'Deployment'],
  'service.yaml': ['kubernetes-models/v1/Service', 'Service'],
  'pod-disruption-budget.yaml': ['kubernetes-models/policy/v1/PodDisruptionBudget', 'PodDisruptionBudget']
}

t.strictSame(readdirSync(`${root}/example/kubernetes`).sort(), Object.keys(TYPES).sort(), 'each manifest has its schema')

for (const [file, [path, type]] of Object.entries(TYPES)) {
  t.test(`${file} fits its schema`, async t => {
    const manifest = parse(read(`kubernetes/${file}`)) as { kind: string, spec: object }
    const Model = (load(path) as Record<string, new (data: object) => { validate: () => void }>)[type]
    t.ok(Model)
    if (Model === undefined) return
    t.doesNotThrow(() => { new Model(manifest).validate() })
    t.throws(() => { new Model({ ...manifest, spec: 'none' }).validate() }, 'the schema is used')
  })
}

t.test('no manifest has an unknown field, kind or version', async t => {
  // The schemas allow unknown fields. The compiler does not.
  const program = Object.entries(TYPES).flatMap(([file, [path, type]], index) => {
    const { kind, spec, ...rest } = parse(read(`kubernetes/${file}`)) as { kind: string, spec: object }
    const declare = (manifest: object, name: string) => `export const ${name}${index}: I${type}${index} = ${JSON.stringify(manifest)}`
    const manifest = { ...rest, kind, spec }
    return [
      `import type { I${type} as I${type}${index} } from '${path}'`,
      declare({ apiVersion: null, ...manifest }, 'whole'),
      '// @ts-expect-error',
      declare({ ...manifest, spec: { ...spec, stranger: 1 } }, 'strange'),
      '// @ts-expect-error',
      declare({ ...manifest, kind: `${kind}s` }, 'otherKind'),
      '// @ts-expect-error',
      declare({ ...manifest, apiVersion: 'v0' }, 'otherVersion')
    ]
  })
  writeFileSync(`${directory}/manifests.ts`, program.join('\n'))
  const options = ['--ignoreConfig', '--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--target', 'es2022', '--types', 'node']
  t.equal(tsc(...options, `${directory}/manifests.ts`), '')
})

/** The configuration from a container's environment, and the plugin's options in it. */
function configOf (env: Array<{ name: string, value: string }>) {
  const config = readConfig(Object.fromEntries(env.map(({ name, value }) => [name, value])))
  const { shutdownTimeout, shutdownDelay, drainTimeout } = config
  return { ...config, options: resolveOptions({ shutdownTimeout, shutdownDelay, drainTimeout }) }
}

for (const file of ['deployment.yaml', 'deployment-prestop.yaml']) {
  t.test(`${file}: grace period, probes and the shutdown's budget fit each other`, async t => {
    const { metadata, spec } = parse(read(`kubernetes/${file}`)) as Deployment
    const { terminationGracePeriodSeconds: grace, containers: [container] } = spec.template.spec
    const { options, port, host } = configOf(container.env)
    const preStop = container.lifecycle?.preStop.sleep.seconds ?? 0
    const { shutdownTimeout, shutdownDelay, health, ready } = options
    t.ok(grace * 1_000 >= preStop * 1_000 + shutdownTimeout + 5_000, 'SIGKILL comes after the end of the shutdown')
    t.ok(preStop * 1_000 + shutdownDelay.max >= 10_000, 'endpoint removal has enough time')
    // A preStop hook tells open connections nothing; the delay after it does.
    t.ok(shutdownDelay.max >= 1_000, 'open connections are told to close')
    const { livenessProbe, readinessProbe, startupProbe } = container
    // The first failure may come at once, the last one this much later.
    t.ok(livenessProbe.periodSeconds * (livenessProbe.failureThreshold - 1) * 1_000 >= shutdownTimeout, 'liveness does not end it earlier')
    t.ok(readinessProbe.periodSeconds * readinessProbe.failureThreshold * 1_000 < 10_000, 'readiness fails in time')
    t.equal(readinessProbe.httpGet.path, ready !== false && ready.path)
    for (const probe of [livenessProbe, startupProbe]) t.equal(probe.httpGet.path, health !== false && health.path)
    for (const probe of [livenessProbe, readinessProbe, startupProbe]) t.equal(probe.httpGet.port, container.ports[0]?.name)
    t.equal(container.ports[0]?.containerPort, port)
    t.equal(host, '0.0.0.0')
    t.strictSame(spec.selector.matchLabels, spec.template.metadata.labels)
    t.strictSame(spec.selector.matchLabels, metadata.labels)
    t.equal(spec.strategy.rollingUpdate.maxUnavailable, 0)
    t.strictSame(container.command, COMMAND, 'no shell, no npm: what the image runs')
  })
}

t.test('the service and the disruption budget select the pods', async t => {
  const { spec } = parse(read('kubernetes/deployment.yaml')) as Deployment
  const service = parse(read('kubernetes/service.yaml')) as { spec: { selector: object, ports: [{ targetPort: string }] } }
  const budget = parse(read('kubernetes/pod-disruption-budget.yaml')) as {
    spec: { selector: { matchLabels: object }, maxUnavailable?: number, minAvailable?: number }
  }
  t.strictSame(service.spec.selector, spec.selector.matchLabels)
  t.strictSame(budget.spec.selector.matchLabels, spec.selector.matchLabels)
  t.equal(service.spec.ports[0].targetPort, spec.template.spec.containers[0].ports[0]?.name)
  const { maxUnavailable, minAvailable = 0 } = budget.spec
  t.ok((maxUnavailable ?? spec.replicas - minAvailable) >= 1, 'a node can be drained')
})

/** The samples of a scrape, by series. */
async function scrape (port: number): Promise<Record<string, number>> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`, { headers: { connection: 'close' } })).text()
  return Object.fromEntries([...text.matchAll(/^fastify_graceful_(.+) (\S+)$/gm)].map(([, series, value]) => [series, Number(value)]))
}

t.test('the metrics can be scraped until shortly before requests are cut', async t => {
  const { log, child, exit } = startImage(t, { SHUTDOWN_TIMEOUT: '4', SHUTDOWN_DELAY: '600' })
  const { msg } = await log.line(/listening at/)
  const port = Number(/:(\d+)$/.exec(msg)?.[1])
  const { drainTimeout } = configOf([{ name: 'SHUTDOWN_TIMEOUT', value: '4' }, { name: 'SHUTDOWN_DELAY', value: '600' }])
  t.match(await scrape(port), { shutdown_elapsed_seconds: 0, last_request_lateness_seconds: 0, drain_elapsed_seconds: 0 })

  // One request takes longer than the drain, one comes during the delay; probes continue to the end.
  const cut = new RawClient(port).get('/api/data?ms=5000')
  await log.line(/incoming request/)
  child.kill('SIGTERM')
  await log.line(/Not ready any more/)
  await sleep(200)
  await new RawClient(port).get('/api/data?ms=1').closed
  const scrapes = [await scrape(port)]
  t.match(scrapes[0], { drain_elapsed_seconds: 0, 'requests_in_flight{route="/api/data"}': 1 })
  await log.line(/Waiting for 1 in-flight/)
  try {
    for (;;) {
      const [values] = await Promise.all([scrape(port), fetch(`http://127.0.0.1:${port}/ready`, { headers: { connection: 'close' } })])
      scrapes.push(values)
      await sleep(100)
    }
  } catch {
    // The listener is closed.
  }
  await cut.closed
  const { drain_elapsed_seconds: drain = NaN, last_request_lateness_seconds: lateness = NaN, ...last } = scrapes.at(-1) ?? {}
  t.ok(drain > drainTimeout / 1_000 * 3 / 4, `${drain} s of the drain`)
  t.equal(last['requests_in_flight{route="/api/data"}'], 1)
  t.ok(lateness > 0.15 && lateness < 0.6 + 0.2, `the last request came after ${lateness} s, probes and scrapes aside`)
  t.equal((await exit)[0], 1, 'something was cut')
})

t.test('the seconds in the alerts fit the times of the Deployment, and leave enough time for a scrape', async t => {
  const text = read('prometheus/rules.yml')
  const { spec: { template } } = parse(read('kubernetes/deployment.yaml')) as Deployment
  const { shutdownDelay, drainTimeout } = configOf(template.spec.containers[0].env)
  const [delay, drain] = [shutdownDelay / 1_000, drainTimeout / 1_000]
  t.match(text, `(shutdownDelay ${delay} s, drainTimeout ${drain.toFixed(1)} s)`)
  const scrapeInterval = Number(/scrape each (\d+) s/.exec(text)?.[1])
  const { groups: [{ rules }] } = parse(text) as { groups: [{ rules: Array<{ alert: string, expr: string }> }] }
  const threshold = (name: string) => Number(/seconds(?:\[2m\]\))? > (\d+)/.exec(rules.find(({ alert }) => alert === name)?.expr ?? '')?.[1])
  t.ok(drain - threshold('RequestsAboutToBeCut') > scrapeInterval)
  t.equal(threshold('SlowDrain'), Math.floor(drain / 2))
  t.equal(threshold('DelayTooShort'), delay / 2)
  t.ok(delay - threshold('DelayTooShort') >= scrapeInterval)
})

const seconds = (duration: string) => Number(/^(\d+)s$/.exec(duration)?.[1])

interface Service { command?: string[], init: boolean, stop_signal?: string, stop_grace_period: string, healthcheck: { test: string[] } }

t.test('Compose, systemd and PM2 run the command of the image and wait longer than the shutdown takes', async t => {
  const { services: { api } } = parse(read('docker/compose.yaml')) as {
    services: { api: Service & { environment: Record<string, string>, build: { context: string, dockerfile: string } } }
  }
  const compose = configOf(Object.entries(api.environment).map(([name, value]) => ({ name, value })))
  t.ok(seconds(api.stop_grace_period) * 1_000 >= compose.options.shutdownTimeout + 5_000)
  t.strictSame(api.command ?? COMMAND, COMMAND)
  t.equal(api.init, true)
  t.strictSame(api.build, { context: '../..', dockerfile: 'example/docker/Dockerfile' })
  const { ready } = compose.options
  t.ok(api.healthcheck.test[3]?.includes(`'http://127.0.0.1:${compose.port}${ready === false ? '' : ready.path}'`))
  t.strictSame(api.healthcheck.test.slice(0, 3), ['CMD', 'node', '-e'])

  const file = read('systemd/api.service')
  const unit = Object.fromEntries([...file.matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name, value])) as Record<string, string>
  t.match(unit, { KillSignal: 'SIGTERM', KillMode: 'mixed', Type: 'exec', ExecStart: `/usr/bin/node /srv/api/${COMMAND[1]}` })
  const [timeout] = /SHUTDOWN_TIMEOUT=(\d+)/.exec(file)?.slice(1) ?? []
  t.ok(Number(unit['TimeoutStopSec']) >= Number(timeout) + 5)
  const [port] = /\bPORT=(\d+)/.exec(file)?.slice(1) ?? []
  t.match(read('systemd/api.socket'), `\nListenStream=127.0.0.1:${port}\n`)

  const { apps: [pm2] } = load('../../example/pm2/ecosystem.config.cjs') as { apps: [Record<string, unknown> & { kill_timeout: number, env: NodeJS.ProcessEnv }] }
  t.match(pm2, { script: COMMAND[1], cwd: /example\/pm2\/\.\.\/\.\.$/, exec_mode: 'cluster', wait_ready: true, shutdown_with_message: true })
  t.ok(pm2.kill_timeout >= readConfig(pm2.env).shutdownTimeout + 5_000)
})

t.test('the manifests in README and docs match the files', async t => {
  type Block = { spec?: Partial<Deployment['spec']['template']['spec']>, services?: { api: Service } } | null
  const blocks = pages().flatMap(({ path, fences }) => fences.filter(({ language }) => language === 'yaml')
    .map(({ code, line }) => ({ where: `${path}:${line}`, block: parse(code) as Block })))

  const { spec: { template: { spec } } } = parse(read('kubernetes/deployment.yaml')) as Deployment
  const { startupProbe, readinessProbe, livenessProbe, ports } = spec.containers[0]
  const pods = blocks.filter(({ block }) => block?.spec?.containers?.[0].startupProbe !== undefined)
  t.strictSame(pods.map(({ where }) => where.replace(/:.*/, '')), ['README.md', 'docs/kubernetes.md'])
  for (const { where, block } of pods) {
    t.equal(block?.spec?.terminationGracePeriodSeconds, spec.terminationGracePeriodSeconds, where)
    t.match(block?.spec?.containers?.[0], { command: ['node'], startupProbe, readinessProbe, livenessProbe, ports }, where)
  }

  const compose = parse(read('docker/compose.yaml')) as { services: { api: Service } }
  const { init, stop_grace_period: period, healthcheck } = compose.services.api
  const services = blocks.filter(({ block }) => block?.services?.api !== undefined)
  t.strictSame(services.map(({ where }) => where.replace(/:.*/, '')), ['docs/deployment.md'])
  for (const { where, block } of services) {
    t.match(block?.services?.api, { init, stop_grace_period: period, healthcheck, stop_signal: argumentsOf('STOPSIGNAL')[0], command: ['node'] }, where)
  }
})

t.test('the image runs one command, listens on the network, and contains exactly what the command imports', async t => {
  t.equal(argumentsOf('CMD').length, 1)
  t.strictSame(argumentsOf('ENTRYPOINT'), [])
  t.equal(COMMAND[0], 'node')
  t.strictSame(argumentsOf('STOPSIGNAL'), ['SIGTERM'])
  const last = dockerfile.slice(dockerfile.findLastIndex(({ name }) => name === 'FROM'))
  t.ok(last.some(({ name, value }) => name === 'ENV' && /\bHOST=0\.0\.0\.0\b/.test(value)))
  t.ok(last.some(({ name, value }) => name === 'RUN' && /^npm ci --omit=dev\b/.test(value)))
  t.notOk(last.some(({ name, value }) => name === 'COPY' && value.includes('node_modules')))

  const scripts = readdirSync(`${directory}/dist`, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.js'))
  const text = scripts.map(name => readFileSync(`${directory}/dist/${name}`, 'utf8')).join('\n')
  const imports = [...text.matchAll(/^(?:(?:import|export|\}) .*from|import) '((?:@[^/'\n]+\/)?[^./'\n][^/'\n]*)/gm)].map(([, name = '']) => name)
  const packages = [...new Set(imports)].filter(name => !name.startsWith('node:') && !builtinModules.includes(name)).sort()
  const { dependencies } = load('../../example/package.json') as { dependencies: Record<string, string> }
  const ours = load('../../package.json') as { dependencies: object, devDependencies: { fastify: string } }
  t.strictSame(Object.keys({ ...dependencies, ...ours.dependencies }).sort(), packages)
  t.equal(dependencies['fastify'], ours.devDependencies.fastify, 'in the version that is tested')

  const ignored = read('docker/Dockerfile.dockerignore').split('\n').filter(line => line !== '' && !line.startsWith('#'))
  t.equal(ignored[0], '*')
  const sent = ignored.slice(1).map(line => line.replace(/^!/, ''))
  for (const name of ['node_modules', '.git', 'dist', 'test']) t.notOk(sent.includes(name), name)
  const compiled = tsc('-p', `${root}/example/docker/tsconfig.json`, '--listFilesOnly').split('\n')
  const sources = compiled.filter(name => name.startsWith(root) && !name.includes('node_modules')).map(name => name.slice(root.length))
  t.ok(sources.length > 10)
  for (const name of sources) t.ok(sent.some(one => name === one || name.startsWith(`${one}/`)), name)
})

/** Runs the command of the image outside of it; with `before`, through another program. */
function startImage (t: { teardown: (end: () => void) => void }, env: Record<string, string>, before: readonly string[] = [], ipc = false) {
  const [first, ...rest] = [...before, 'env', ...PLAIN_NODE, ...COMMAND.slice(1)] as [string, ...string[]]
  const child = spawn(first, rest, {
    cwd: directory,
    env: { ...process.env, PORT: '0', DATABASE: `${directory}/notes-${Math.random()}.sqlite`, ...env },
    stdio: ['ignore', 'pipe', 'inherit', ...ipc ? ['ipc' as const] : []]
  })
  t.teardown(() => { child.kill('SIGKILL') })
  const exit = once(child, 'exit') as Promise<[number | null]>
  const log = new Log()
  child.stdout?.on('data', (chunk: Buffer) => { log.write(chunk.toString()) })
  return { child, exit, log }
}

/** As root of its own user namespace, so that it needs no root privileges; as root where user namespaces are disabled. */
const UNSHARE = [['--user', '--map-root-user'], []].map(user => ['unshare', user, '--pid', '--fork', '--kill-child'].flat())
  .find(([command = '', ...args]) => spawnSync(command, [...args, 'true']).status === 0)
const noUnshare = spawnSync('unshare', ['--version']).error !== undefined

t.test("the image's command, as PID 1, answers requests in flight when it is stopped, and exits with 0", {
  skip: noUnshare ? 'there is no unshare here: PID namespaces are of Linux' : false
}, async t => {
  t.ok(UNSHARE, 'unshare makes a PID namespace')
  if (UNSHARE === undefined) return
  const { child, exit, log } = startImage(t, {}, UNSHARE)
  const { msg, pid } = await log.line(/listening at/)
  t.equal(pid, 1, 'it is PID 1')
  const client = new RawClient(Number(/:(\d+)$/.exec(msg)?.[1])).get('/api/data?ms=500')
  await log.line(/incoming request/)
  const inside = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8'))
  process.kill(inside, 'SIGTERM')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK[^]*"ms":500/)
  t.strictSame((await exit)[0], 0)
  await eventually(() => log.messages(/Graceful shutdown complete/).length === 1)
})

t.test('a process manager that communicates by messages is told when the service is ready, and its shutdown message is obeyed', async t => {
  const { child, exit, log } = startImage(t, {}, [], true)
  const [ready] = await once(child, 'message') as [string]
  t.equal(ready, 'ready')
  const { msg } = await log.line(/listening at/)
  const client = new RawClient(Number(/:(\d+)$/.exec(msg)?.[1])).get('/api/data?ms=500')
  await log.line(/incoming request/)
  child.send('shutdown')
  const { time } = await log.line(/Graceful shutdown complete/)
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK[^]*"ms":500/)
  t.strictSame((await exit)[0], 0)
  t.ok(Date.now() - (time as number) >= 90, 'there is a moment for a manager that writes the log later')
})

t.test('the delay of the rolling restarts is longer than the balancers take to notice', async t => {
  const config = read('haproxy/haproxy.cfg')
  const [inter, fall] = /^ *default-server check inter (\d+)ms fall (\d+)/m.exec(config)?.slice(1).map(Number) ?? []
  const timeout = seconds(/^ *timeout check (\S+)$/m.exec(config)?.[1] ?? '') * 1_000
  t.strictSame(CHECKS, { inter, fall, timeout })
  const caddyfile = read('caddy/Caddyfile')
  t.match(caddyfile, new RegExp(`health_interval ${inter}ms\\s+health_timeout ${timeout / 1_000}s\\s`))
  for (const { hasChecks, delay } of Object.values(BALANCERS)) {
    t.ok(delay > (hasChecks ? CHECKS.inter * CHECKS.fall + CHECKS.timeout : REMOVAL.longest))
  }
})

t.test('the rolling restarts report how they are misused', async t => {
  const run = (...args: string[]) => spawnSync('env', [
    '-u', 'NODE_OPTIONS', `PATH=${directory}`, process.execPath, ...TYPESCRIPT, 'test/rolling/run.ts', ...args
  ], { cwd: root, encoding: 'utf8' })
  const stranger = run('--stranger')
  t.equal(stranger.status, 1)
  t.match(stranger.stderr, /'--stranger'[^]*npm run test:rolling -- /)
  for (const name of ['haproxy', 'nginx', 'caddy']) {
    const missing = run('--balancer', name)
    t.equal(missing.status, 1)
    t.equal(missing.stderr, `${name} is not installed: apt-get install haproxy nginx caddy\n`)
  }
})
