// What docs/kubernetes.md says of a pod that is deleted, with the manifests of the example.
//
// Podman plays the manifests: image, command, environment, user, memory limit. Podman 4.3 knows neither the startup nor the readiness probe
// nor terminationGracePeriodSeconds, and makes the liveness probe a call of curl, which the image does not have. So these tests do what the
// kubelet does with them.

import type { Test } from 'tap'
import type { Cases } from './cases.ts'
import type { Container, Podman } from './podman.ts'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { freePort, RawClient } from '../helpers.ts'
import { ROOT } from '../pages.ts'
import { BALANCERS, type Balancer } from '../rolling/balancers.ts'
import { startLoad } from '../rolling/load.ts'
import { RECEIVED, request } from './cases.ts'
import { EXAMPLE } from './images.ts'

interface Probe { periodSeconds: number, failureThreshold: number, timeoutSeconds?: number, httpGet: { path: string } }

interface PodSpec {
  terminationGracePeriodSeconds: number
  containers: [{
    image: string
    ports: [{ containerPort: number, hostPort?: number, hostIP?: string }]
    env: Array<{ name: string, value: string }>
    lifecycle?: { preStop: { sleep: { seconds: number } } }
    startupProbe: Probe
    readinessProbe: Probe
    livenessProbe: Probe
  }]
}

interface Deployment {
  metadata: { name: string }
  spec: { replicas: number, template: { spec: PodSpec } }
}

/** From where the published port is reached, as a container sees it. */
const PROXIES = '127.0.0.1,10.0.2.2,10.0.2.100'
/** Milliseconds until endpoint removal has reached the last proxy: usually, and the longest that the settings of the page allow. */
const REMOVAL = { usual: 200, longest: 8_000 }
/** Milliseconds of load before the first deletion and after the last one. */
const BEFORE = 1_000

/** One pod, and what the kubelet does for it. */
class Pod {
  readonly container: Container
  readonly #spec: PodSpec
  readonly #deleted = new AbortController()
  /** How often the liveness probe would have restarted the container. */
  restarts = 0

  constructor (container: Container, spec: PodSpec) {
    this.container = container
    this.#spec = spec
  }

  /** Plays the manifest for one pod, with the local image and a published port, and waits until its probes pass. */
  static async start (t: Test, podman: Podman, file: string, changes: { env?: Record<string, string>, grace?: number } = {}): Promise<Pod> {
    const port = await freePort()
    const manifest = read(file)
    const { metadata, spec } = manifest
    const pod = spec.template.spec
    const [container] = pod.containers
    metadata.name = `api-${port}`
    spec.replicas = 1
    container.image = EXAMPLE
    Object.assign(container.ports[0], { hostPort: port, hostIP: '127.0.0.1' })
    const env = { TRUST_PROXY: PROXIES, ...changes.env }
    container.env = [...container.env, ...Object.entries(env).map(([name, value]) => ({ name, value }))]
    pod.terminationGracePeriodSeconds = changes.grace ?? pod.terminationGracePeriodSeconds
    const path = join(podman.directory, `${metadata.name}.yaml`)
    writeFileSync(path, stringify(manifest))
    const played = await podman.call('kube', 'play', '--network=slirp4netns', '--start=false', path)
    const [podId, containerId] = played.match(/^[0-9a-f]{64}$/gm) as [string, string]
    podman.removeAfter(t, 'pod', podId)
    const one = new Pod(await podman.startCreated(containerId, port), pod)
    t.teardown(() => { one.#deleted.abort() })
    await one.#untilReady()
    return one
  }

  async #untilReady (): Promise<void> {
    const [{ startupProbe, readinessProbe, livenessProbe }] = this.#spec.containers
    let failures = 0
    while (!await this.#passes(startupProbe)) {
      if (++failures === startupProbe.failureThreshold) throw new Error(`The startup probe fails: ${this.container.output}`)
      await sleep(startupProbe.periodSeconds * 1_000)
    }
    while (!await this.#passes(readinessProbe)) await sleep(readinessProbe.periodSeconds * 1_000)
    void this.#watch(livenessProbe, () => { this.restarts++ })
  }

  async #watch (probe: Probe, onFailure: () => void): Promise<void> {
    let failures = 0
    const { signal } = this.#deleted
    // Rejects when the pod is deleted.
    while (await sleep(probe.periodSeconds * 1_000, true, { signal }).catch(() => false)) {
      failures = await this.#passes(probe) ? 0 : failures + 1
      if (failures === probe.failureThreshold) onFailure()
    }
  }

  async #passes ({ httpGet, timeoutSeconds = 1 }: Probe): Promise<boolean> {
    try {
      return (await this.get(httpGet.path, timeoutSeconds)).ok
    } catch {
      return false
    }
  }

  /** Over a new connection. */
  async get (path: string, timeoutSeconds = 10): Promise<Response> {
    const signal = AbortSignal.timeout(timeoutSeconds * 1_000)
    return await fetch(`http://127.0.0.1:${this.container.port}${path}`, { headers: { connection: 'close' }, signal })
  }

  /** As a kubelet does it: the preStop hook, SIGTERM, and SIGKILL at the end of the grace period. Returns the exit code. */
  async delete (): Promise<number> {
    this.#deleted.abort()
    const { terminationGracePeriodSeconds, containers: [{ lifecycle }] } = this.#spec
    const seconds = lifecycle?.preStop.sleep.seconds ?? 0
    // The form of the hook for Kubernetes before 1.30.
    if (seconds > 0) await this.container.exec('sleep', String(seconds))
    return await this.container.stop(terminationGracePeriodSeconds - seconds)
  }
}

function read (file: string): Deployment {
  return parse(readFileSync(join(ROOT, 'example/kubernetes', file), 'utf8')) as Deployment
}

export const kubernetes: Cases = {
  'deployment.yaml: the phases after SIGTERM, and 0 within the grace period': async (t, podman) => {
    const pod = await Pod.start(t, podman, 'deployment.yaml')
    const { container } = pod
    t.equal(await container.inspect('.HostConfig.Memory'), 256 * 1024 * 1024)
    t.equal(await container.exec('id', '-u'), '1000')
    const probes = async () => await Promise.all(['/ready', '/health'].map(async path => (await pod.get(path)).status))
    t.strictSame(await probes(), [200, 200])

    const deleted = pod.delete()
    await container.log.line(/^Not ready any more, still serving for 10000ms$/)
    t.strictSame(await probes(), [503, 503])
    const client = new RawClient(container.port).get('/api/data?ms=1')
    await client.closed
    t.match(client.text, /^HTTP\/1\.1 200 OK[^]*connection: close/i, 'served while delaying')
    await sleep(7_000)
    const long = new RawClient(container.port).get('/api/data?ms=5000')

    await container.log.line(/^Waiting for 1 in-flight request to complete/)
    t.strictSame(await probes(), [503, 503])
    const late = await pod.get('/api/data')
    t.equal(late.status, 503, 'refused while draining')
    t.equal(late.headers.get('retry-after'), '1')

    t.equal(await deleted, 0)
    await long.closed
    t.match(long.text, /^HTTP\/1\.1 200 OK[^]*"ms":5000/)
    await t.rejects(pod.get('/health'))
  },

  '137: terminationGracePeriodSeconds is shorter than the shutdown': async (t, podman) => {
    const pod = await Pod.start(t, podman, 'deployment.yaml', { grace: 2 })
    const { container } = pod
    const client = await request(container, '/api/data?ms=5000')
    t.equal(await pod.delete(), 137)
    await client.closed
    t.equal(client.text, '')
    t.equal(container.log.messages(RECEIVED).length, 1)
    t.strictSame(container.log.messages(/callback|complete$/), [])
  }
}

export const longKubernetes: Cases = {
  'deployment-prestop.yaml: during the hook, the pod serves as usual; then SIGTERM, and 0 within the grace period': async (t, podman) => {
    const pod = await Pod.start(t, podman, 'deployment-prestop.yaml')
    const kept = new RawClient(pod.container.port)
    const deleted = pod.delete()
    await sleep(5_000)
    t.equal((await pod.get('/ready')).status, 200)
    await kept.get('/api/data?ms=1').until(/"ms":1/)
    t.match(kept.text, /^HTTP\/1\.1 200 OK[^]*connection: keep-alive/i)
    t.strictSame(pod.container.log.messages(RECEIVED), [])

    await pod.container.log.line(/^Not ready any more, still serving for 2000ms$/)
    kept.get('/api/data?ms=2')
    await kept.closed
    t.match(kept.text, /"ms":1[^]*HTTP\/1\.1 200 OK[^]*connection: close[^]*"ms":2/i)
    t.equal(await deleted, 0)
  },

  'podman pod stop of Podman 4.3: SIGKILL after 10 s, whatever the manifest says, and no network from the start': async (t, podman) => {
    const version = await podman.call('version', '--format={{.Client.Version}}')
    if (!version.startsWith('4.3.')) {
      t.plan(0, `this is Podman ${version}`)
      return
    }
    const pod = await Pod.start(t, podman, 'deployment.yaml', { env: { SHUTDOWN_DELAY: '20000' } })
    let isStopped = false
    const stopped = podman.call('pod', 'stop', `api-${pod.container.port}-pod-0`).then(() => { isStopped = true })
    await pod.container.log.line(/^Not ready any more/)
    while (await pod.get('/ready', 2).then(() => true, () => false)) await sleep(100)
    t.notOk(isStopped, 'the network is gone before the service')
    await stopped
    t.match(await pod.container.ended(), { ExitCode: 137 })
  }
}

/** Alone, because it measures under load. */
export const underLoad: Cases = {
  'a rolling update of all replicas, under load, loses no request': async (t, podman) => {
    const { spec: { replicas } } = read('deployment.yaml')
    const start = async () => await Pod.start(t, podman, 'deployment.yaml')
    const old = await Promise.all(Array.from({ length: replicas }, start))
    const port = await freePort()
    const service: Balancer = await BALANCERS.direct.start(podman.directory, old.map(({ container }) => container.port), port, [])
    t.teardown(() => { service.kill() })
    const load = startLoad(port, true)
    await sleep(BEFORE)
    const deletions: Array<Promise<number>> = []
    const started: Pod[] = []
    for (const [index, pod] of old.entries()) {
      // maxSurge: 1, maxUnavailable: 0
      const next = await start()
      started.push(next)
      await service.returns(next.container.port)
      deletions.push(pod.delete())
      void service.leaves(pod.container.port, index === 0 ? REMOVAL.longest : REMOVAL.usual)
    }
    t.strictSame(await Promise.all(deletions), old.map(() => 0))
    await sleep(BEFORE)
    await load.stop()
    t.strictSame(load.failed, [])
    t.ok(load.requests.kept > 0 && load.requests.new > 0, `${load.requests.kept} requests on kept connections, ${load.requests.new} on new ones`)
    t.equal([...old, ...started].reduce((sum, { restarts }) => sum + restarts, 0), 0, 'no liveness probe fails')
  }
}
