// Real containers: `npm run test:containers`. `-- --help` shows the options.
//
// Podman builds the images, and starts and stops the service as Docker, Compose and Kubernetes do. Exit codes and responses are compared
// with what the documentation says. Where containers cannot run, the reason is printed, and nothing fails.

import type { Cases } from './cases.ts'
import t from 'tap'
import { readFlags } from '../flags.ts'
import { docker } from './docker.ts'
import { exitCodes, longExitCodes } from './exit-codes.ts'
import { buildDocs, buildExample, importBase } from './images.ts'
import { kubernetes, longKubernetes, underLoad } from './kubernetes.ts'
import { Podman } from './podman.ts'

const HELP = `npm run test:containers -- [--short] [NAME...]

  --short  without the cases that take long
  NAME     only the cases whose names contain it

Needs Linux and root: apt-get install podman runc catatonit slirp4netns mmdebstrap
Images, containers and settings are in a temporary folder; only the archive of the base image is kept, in the cache.
`

/** The cases mostly wait, so they run at the same time. */
const AT_ONCE = 3
/** Milliseconds until a case, and until a build has failed: npm installs some hundred packages there. */
const TIMEOUT = 300_000
const BUILD_TIMEOUT = 900_000

/** What these tests leave out, and why. */
const NOT_TESTED = {
  Docker: 'its daemon is one for all of the machine; Podman has the same commands, and needs none',
  'podman-compose': "Debian's 1.0.3 ignores stop_grace_period, breaks the quotes of the healthcheck, and creates a bridge for all of the machine; " +
    'the settings of the Compose file are passed to Podman instead',
  'the interval of healthchecks': 'Podman needs systemd for it; the tests run them',
  'a kubelet': 'the tests send its probes, run its preStop hook and keep its grace period, because Podman 4.3 does not',
  'deregistration by kube-proxy': 'a TCP proxy distributes the connections, and gets each removal as late as docs/kubernetes.md allows'
}

const { values, positionals } = readFlags(HELP, {
  options: { short: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } }, allowPositionals: true
})
if (values.help) {
  console.log(HELP)
  process.exit(0)
}

t.setTimeout(0)
const podman = new Podman()
process.on('exit', () => { podman.remove() })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => { void podman.interrupt().then(() => process.exit(1)) })
}

try {
  await importBase(podman)
} catch (error) {
  console.error(`NOT TESTED: containers do not run here. ${(error as Error).message}`)
  process.exit(0)
}

t.jobs = AT_ONCE
t.teardown(() => {
  for (const [name, reason] of Object.entries(NOT_TESTED)) console.error(`NOT TESTED: ${name}: ${reason}`)
})
await t.test('the Dockerfile of the example is built', { timeout: BUILD_TIMEOUT }, async () => { await buildExample(podman) })
await t.test('the Dockerfile of docs/deployment.md is built', { timeout: BUILD_TIMEOUT }, async () => { await buildDocs(podman) })

const isChosen = (name: string) => positionals.length === 0 || positionals.some(part => name.includes(part))
const chosen = (cases: Cases) => Object.entries(cases).filter(([name]) => isChosen(name))
const long = values.short ? {} : { ...longExitCodes, ...longKubernetes }
for (const [name, run] of chosen({ ...exitCodes, ...docker, ...kubernetes, ...long })) {
  void t.test(name, { buffered: true, timeout: TIMEOUT }, async t => { await run(t, podman) })
}
// Not buffered, so they start when all others have ended.
for (const [name, run] of chosen(underLoad)) void t.test(name, { timeout: TIMEOUT }, async t => { await run(t, podman) })
