// The files for orchestrators: well formed, and their numbers fit each other and the code.

import t from 'tap'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { readConfig } from '../example/config.ts'
import { resolveOptions } from '../lib/options.ts'
import { eventually, Log, RawClient } from './helpers.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
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
    selector: { matchLabels: object }
    strategy: { rollingUpdate: { maxUnavailable: number } }
    template: { metadata: { labels: object }, spec: { terminationGracePeriodSeconds: number, containers: [Container] } }
  }
}

/** Where the models of Kubernetes' own schemas are, by kind. */
const MODELS: Record<string, string> = {
  Deployment: 'apps/v1/Deployment', Service: 'v1/Service', PodDisruptionBudget: 'policy/v1/PodDisruptionBudget'
}

for (const file of readdirSync(`${root}/example/kubernetes`)) {
  const manifest = parse(read(`kubernetes/${file}`)) as { kind: string }
  const path = MODELS[manifest.kind]
  if (path === undefined) continue
  t.test(`${file} fits the schema of Kubernetes`, async t => {
    const Model = (load(`kubernetes-models/${path}`) as Record<string, new (data: object) => { validate: () => void }>)[manifest.kind]
    t.ok(Model)
    if (Model === undefined) return
    t.doesNotThrow(() => { new Model(manifest).validate() })
    t.throws(() => { new Model({ ...manifest, spec: 'none' }).validate() }, 'the schema is there')
  })
}

/** The configuration that a container's environment makes, and the plugin's options in it. */
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
    t.ok(grace * 1_000 >= preStop * 1_000 + shutdownTimeout + 5_000, 'SIGKILL comes later than the end')
    t.ok(preStop * 1_000 + shutdownDelay >= 10_000, 'endpoint removal has its time')
    t.ok(preStop === 0 || shutdownDelay === 0, 'once')
    const { livenessProbe, readinessProbe, startupProbe } = container
    // The first failure may come at once, the last one so much later.
    t.ok(livenessProbe.periodSeconds * (livenessProbe.failureThreshold - 1) * 1_000 >= shutdownTimeout, 'liveness does not end it before')
    t.ok(readinessProbe.periodSeconds * readinessProbe.failureThreshold * 1_000 < 10_000, 'readiness tells in time')
    t.equal(readinessProbe.httpGet.path, ready !== false && ready.path)
    for (const probe of [livenessProbe, startupProbe]) t.equal(probe.httpGet.path, health !== false && health.path)
    for (const probe of [livenessProbe, readinessProbe, startupProbe]) t.equal(probe.httpGet.port, container.ports[0]?.name)
    t.equal(container.ports[0]?.containerPort, port)
    t.equal(host, '0.0.0.0')
    t.strictSame(spec.selector.matchLabels, spec.template.metadata.labels)
    t.strictSame(spec.selector.matchLabels, metadata.labels)
    t.equal(spec.strategy.rollingUpdate.maxUnavailable, 0)
    t.equal(container.command[0], 'node', 'no shell, no npm')
  })
}

t.test('service and disruption budget select the pods', async t => {
  const { spec } = parse(read('kubernetes/deployment.yaml')) as Deployment
  const service = parse(read('kubernetes/service.yaml')) as { spec: { selector: object, ports: [{ targetPort: string }] } }
  const budget = parse(read('kubernetes/pod-disruption-budget.yaml')) as { spec: { selector: { matchLabels: object } } }
  t.strictSame(service.spec.selector, spec.selector.matchLabels)
  t.strictSame(budget.spec.selector.matchLabels, spec.selector.matchLabels)
  t.equal(service.spec.ports[0].targetPort, spec.template.spec.containers[0].ports[0]?.name)
})

t.test('the alerts look at metrics that the example has', async t => {
  const source = read('metrics.ts')
  const { spec } = parse(read('kubernetes/alerts.yaml')) as { spec: { groups: [{ rules: Array<{ alert: string, expr: string, labels: object, annotations: object }> }] } }
  for (const { alert, expr, labels, annotations } of spec.groups[0].rules) {
    const names = [...expr.matchAll(/\b(shutdown|http)_\w+/g)].map(([name]) => name.replace(/_count$/, ''))
    t.ok(names.length > 0, alert)
    for (const name of names) t.ok(source.includes(`'${name}'`), name)
    t.match(labels, { severity: String })
    t.match(annotations, { summary: String, description: String })
  }
})

t.test('Compose, systemd and PM2 wait longer than the shutdown takes', async t => {
  const { services: { api } } = parse(read('docker/compose.yaml')) as { services: { api: { environment: Record<string, string>, stop_grace_period: string } } }
  const compose = configOf(Object.entries(api.environment).map(([name, value]) => ({ name, value })))
  t.ok(parseInt(api.stop_grace_period) * 1_000 >= compose.options.shutdownTimeout + 5_000)

  const unit = Object.fromEntries([...read('systemd/api.service').matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name, value])) as Record<string, string>
  t.match(unit, { KillSignal: 'SIGTERM', KillMode: 'mixed', Type: 'exec' })
  const [seconds = ''] = /SHUTDOWN_TIMEOUT=(\d+)/.exec(read('systemd/api.service'))?.slice(1) ?? []
  t.ok(Number(unit['TimeoutStopSec']) >= Number(seconds) + 5)

  const { apps: [pm2] } = load('../example/pm2/ecosystem.config.cjs') as { apps: [{ kill_timeout: number, env: NodeJS.ProcessEnv }] }
  t.ok(pm2.kill_timeout >= readConfig(pm2.env).shutdownTimeout + 5_000)
})

/** By way of `env`, which becomes the program: the test runner adds options of its own to each Node process it sees started. */
const PLAIN_NODE = ['-u', 'NODE_OPTIONS', process.execPath]

/** The example as JavaScript, built as its image is. */
const directory = `${root}/.tap/image-${process.pid}`
mkdirSync(directory, { recursive: true })
t.teardown(() => { rmSync(directory, { recursive: true, force: true }) })
execFileSync('env', [...PLAIN_NODE, `${root}/node_modules/.bin/tsc`, '-p', `${root}/example/docker/tsconfig.json`, '--outDir', `${directory}/dist`])

t.test("the image's command, as PID 1, answers who is in flight when it is told to stop, and exits with 0", async t => {
  const dockerfile = read('docker/Dockerfile')
  const [command = '', ...args] = JSON.parse(/^CMD (.*)$/m.exec(dockerfile)?.[1] ?? '[]') as string[]
  t.equal(command, 'node')
  t.match(dockerfile, /^STOPSIGNAL SIGTERM$/m)
  const child = spawn('unshare', ['--pid', '--fork', '--kill-child', 'env', ...PLAIN_NODE, ...args], {
    cwd: directory, env: { ...process.env, PORT: '0', DATABASE: `${directory}/notes.sqlite` }, stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => { child.kill('SIGKILL') })
  const exit = once(child, 'exit') as Promise<[number | null]>
  const log = new Log()
  child.stdout.on('data', (chunk: Buffer) => { log.write(chunk.toString()) })
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

t.test('a process manager that speaks by messages is told that it is ready, and heard when it says shutdown', async t => {
  const child = spawn('env', [...PLAIN_NODE, 'dist/example/server.js'], {
    cwd: directory, env: { ...process.env, PORT: '0', DATABASE: `${directory}/notes.sqlite` }, stdio: ['ignore', 'pipe', 'inherit', 'ipc']
  })
  t.teardown(() => { child.kill('SIGKILL') })
  const exit = once(child, 'exit') as Promise<[number | null]>
  const log = new Log()
  child.stdout?.on('data', (chunk: Buffer) => { log.write(chunk.toString()) })
  const [ready] = await once(child, 'message') as [string]
  t.equal(ready, 'ready')
  const { msg } = await log.line(/listening at/)
  const client = new RawClient(Number(/:(\d+)$/.exec(msg)?.[1])).get('/api/data?ms=500')
  await log.line(/incoming request/)
  child.send('shutdown')
  await client.closed
  t.match(client.text, /^HTTP\/1\.1 200 OK[^]*"ms":500/)
  t.strictSame((await exit)[0], 0)
})
