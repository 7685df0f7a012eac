// The alert rules and the dashboard of the example, with a Prometheus that scrapes two instances of it through a rolling restart.

import t from 'tap'
import type { Test } from 'tap'
import type { Program } from '../helpers.ts'
import { parser } from '@prometheus-io/lezer-promql'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Registry } from 'prom-client'
import { parse, stringify } from 'yaml'
import { gracefulMetrics } from '../../lib/prometheus.ts'
import { createApp, freePort, portOf, RawClient, runCommand, runNode } from '../helpers.ts'
import { ROOT } from '../pages.ts'

const RULES = `${ROOT}example/prometheus/rules.yml`
const { groups: [rules] } = parse(readFileSync(RULES, 'utf8')) as {
  groups: [{ interval: string, rules: Array<{ alert: string, expr: string, labels: object, annotations: object }> }]
}

interface Target { refId: string, expr: string, datasource: object }
interface Panel { id: number, title: string, type: string, gridPos: Record<'x' | 'y' | 'w' | 'h', number>, datasource: object, targets: Target[] }
interface Variable { name: string, type: string, query: string | { query: string } }
const dashboard = JSON.parse(readFileSync(`${ROOT}example/grafana/dashboard.json`, 'utf8')) as {
  uid: string, title: string, schemaVersion: number, panels: Panel[], templating: { list: Variable[] }
}

/** What Grafana puts into the queries: the selected job, and the times of a dashboard that shows the last minutes. */
const VALUES = { $job: 'api', $__rate_interval: '5s', $__range: '5m' }
const queries = dashboard.panels.flatMap(({ title, targets }) => targets.map(({ refId, expr }) => ({ name: `${title}, ${refId}`, expr: filled(expr) })))

/** There is no background work, and the cuts of a drain are rarely scraped. */
const MAY_BE_0 = new Set(['Requests in flight, by route, B', 'Cut requests, A', 'Cut requests, B'])

function filled (expression: string): string {
  return Object.entries(VALUES).reduce((text, [name, value]) => text.replaceAll(name, value), expression)
}

/** The metrics of an expression, and whether the expression can be parsed. */
function readQuery (expression: string): { metrics: string[], isValid: boolean } {
  const metrics: string[] = []
  let isValid = true
  parser.parse(expression).iterate({
    enter: ({ type, name, from, to, node }) => {
      if (type.isError) isValid = false
      if (name === 'Identifier' && node.parent?.name === 'VectorSelector') metrics.push(expression.slice(from, to))
    }
  })
  return { metrics, isValid }
}

t.test('the rules and the dashboard can be parsed, and use only metrics that exist', async t => {
  for (const broken of ['a > and b', 'max_over_time(a[1m)', 'nothing(a)', 'a{b=}']) t.notOk(readQuery(broken).isValid, broken)
  const { app } = await createApp(t)
  const register = new Registry()
  await app.register(gracefulMetrics, { register })
  const histograms = (await register.getMetricsAsJSON()).map(({ name }) => `${name}_bucket`)
  const known = new Set([
    ...(await register.getMetricsAsJSON()).map(({ name }) => name), ...histograms,
    'kube_pod_container_status_last_terminated_exitcode', 'kube_pod_container_status_restarts_total'
  ])
  for (const { name, expr } of [...queries, ...rules.rules.map(({ alert, expr: rule }) => ({ name: alert, expr: rule }))]) {
    const { metrics, isValid } = readQuery(expr)
    t.ok(isValid, `${name}: ${expr}`)
    t.ok(metrics.length > 0, name)
    for (const metric of metrics) t.ok(known.has(metric), `${name}: ${metric}`)
  }
  for (const { labels, annotations } of rules.rules) {
    t.match(labels, { severity: String })
    t.match(annotations, { summary: String, description: String })
  }
})

t.test('the dashboard has what Grafana needs to import it', async t => {
  t.match(dashboard, { uid: String, title: String, schemaVersion: Number })
  t.strictSame(dashboard.templating.list.map(({ name, type }) => [name, type]), [['datasource', 'datasource'], ['job', 'query']])
  const datasource = { type: 'prometheus', uid: '${datasource}' } // oxlint-disable-line no-template-curly-in-string
  const { panels } = dashboard
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  for (const { title, gridPos: { x, y, w, h }, targets, ...panel } of panels) {
    t.match(panel, { type: /^(?:timeseries|state-timeline|stat|bargauge)$/, datasource }, title)
    t.ok(x >= 0 && x + w <= 24 && h > 0, title)
    const touching = panels.filter(({ gridPos: one }) => one.x < x + w && x < one.x + one.w && one.y < y + h && y < one.y + one.h)
    t.equal(touching.length, 1, `${title} covers no other panel`)
    t.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length)
    for (const target of targets) t.match(target, { datasource, expr: /\{job=~"\$job"/ })
  }
})

const skip = ['prometheus', 'promtool'].every(program => spawnSync(program, ['--version']).error === undefined)
  ? false
  : 'there is no prometheus here: on Debian, it is the package prometheus'

t.test('promtool accepts the rules, and their tests pass', { skip }, async t => {
  for (const args of [['check', 'rules', 'rules.yml'], ['test', 'rules', 'rules.test.yml']]) {
    const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: `${ROOT}example/prometheus`, encoding: 'utf8' })
    t.equal(status, 0, stdout + stderr)
  }
})

interface Series { metric: Record<string, string>, values: Array<[number, string]> }

/** A Prometheus that scrapes two instances, as job `api`, and the file with the last metrics of one, as job `files`. */
class Prometheus {
  readonly #url: string
  readonly #start = Date.now() / 1_000

  private constructor (url: string) {
    this.#url = url
  }

  static async start (t: Test, instances: number[], files: number): Promise<Prometheus> {
    const directory = t.testdir({
      'prometheus.yml': stringify({
        global: { scrape_interval: '200ms', scrape_timeout: '200ms' },
        rule_files: [RULES],
        scrape_configs: Object.entries({ api: instances, files: [files] }).map(([name, ports]) =>
          ({ job_name: name, static_configs: [{ targets: ports.map(port => `127.0.0.1:${port}`) }] }))
      })
    })
    const port = await freePort()
    const program = runCommand(t, ['prometheus', `--config.file=${directory}/prometheus.yml`, `--storage.tsdb.path=${directory}/data`,
      `--web.listen-address=127.0.0.1:${port}`])
    const url = `http://127.0.0.1:${port}`
    const exit = program.exit.then(() => { throw new Error(program.output()) })
    exit.catch(() => {})
    await Promise.race([exit, until(async () => await fetch(`${url}/-/ready`).then(({ ok }) => ok, () => false))])
    return new Prometheus(url)
  }

  async get<T> (path: string): Promise<T> {
    const answer = await (await fetch(`${this.#url}/api/v1/${path}`)).json() as { data: T, error?: string }
    if (answer.error !== undefined) throw new Error(`${path}: ${answer.error}`)
    return answer.data
  }

  /** The series of a query since the start, with at most one sample for each scrape. */
  async query (query: string): Promise<Series[]> {
    const range = { query, start: String(this.#start), end: String(Date.now() / 1_000), step: '0.2' }
    return (await this.get<{ result: Series[] }>(`query_range?${String(new URLSearchParams(range))}`)).result
  }

  /** Waits until a query has a sample. */
  async sample (query: string): Promise<void> {
    await until(async () => (await this.query(query)).length > 0).catch(() => { throw new Error(`No sample of ${query}`) })
  }
}

/** Asks again, with a pause, until the answer is yes, because Prometheus reports nothing by itself. Gives up after 30 s. */
async function until (ask: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 30_000
  while (!await ask()) {
    if (performance.now() > end) throw new Error(`Not within 30 s: ${String(ask)}`)
    await sleep(100)
  }
}

t.test('a rolling restart under load, in Prometheus', { skip, timeout: 180_000 }, async t => {
  const ports = [await freePort(), await freePort()] as const
  const directory = t.testdir({})
  const file = join(directory, 'last.prom')
  const start = async (port: number): Promise<Program> => {
    const program = runNode(t, [`${ROOT}example/server.ts`], {
      PORT: String(port), SHUTDOWN_DELAY: '1500', SHUTDOWN_TIMEOUT: '5', DATABASE: join(directory, `${port}.sqlite`), METRICS_FILE: file
    })
    await portOf(program)
    return program
  }
  const first = await start(ports[0])
  const second = await start(ports[1])
  // As the textfile collector of the node exporter does.
  const files = createServer((_request, response) => {
    response.setHeader('content-type', 'text/plain; version=0.0.4')
    response.end(existsSync(file) ? readFileSync(file) : '')
  }).listen(0, '127.0.0.1')
  await once(files, 'listening')
  t.teardown(() => { files.close() })
  const { port: filesPort } = files.address() as { port: number }
  const prometheus = await Prometheus.start(t, [...ports], filesPort)
  for (const port of ports) await prometheus.sample(`fastify_graceful_phase{instance="127.0.0.1:${port}", phase="running"} == 1`)

  // A client that asks both in turn, whatever their probes say.
  const done = new AbortController()
  t.teardown(() => { done.abort() })
  const statuses = new Set<number>()
  const load = (async () => {
    while (!done.signal.aborted) {
      for (const port of ports) {
        await fetch(`http://127.0.0.1:${port}/api/data?ms=20`).then(async answer => {
          statuses.add(answer.status)
          await answer.text()
        }, () => {})
      }
    }
  })()

  // One instance answers what is in flight and is started again, then the other one cuts it.
  const instance = ports.map(port => `instance="127.0.0.1:${port}"`)
  const slow = new RawClient(ports[0]).get('/api/data?ms=3500')
  await prometheus.sample(`fastify_graceful_requests_in_flight{${instance[0]}, route="/api/data"} > 0`)
  first.kill('SIGTERM')
  await slow.closed
  t.match(slow.text, / 200 /)
  t.match(await first.exit, { code: 0 })
  await start(ports[0])

  second.kill('SIGTERM')
  await second.log.line(/Not ready any more/)
  const cut = new RawClient(ports[1]).get('/api/data?ms=5000')
  await cut.closed
  t.match(cut.text, / 503 /)
  t.match(await second.exit, { code: 1 })
  done.abort()
  await load
  t.strictSame([...statuses].filter(status => ![200, 503, 429].includes(status)), [])

  await prometheus.sample('ALERTS{alertname="RequestsCut", alertstate="firing", job="files"}')
  const firing = await prometheus.query('ALERTS{alertstate="firing"}')
  t.strictSame(new Set(firing.map(({ metric: { alertname } }) => alertname)), new Set(['RequestsCut']), 'and no other alert')
  const loaded = (await prometheus.get<{ groups: Array<{ rules: Array<{ name: string, health: string }> }> }>('rules')).groups.flatMap(group => group.rules)
  t.strictSame(loaded.map(({ name, health }) => [name, health]), rules.rules.map(({ alert }) => [alert, 'ok']))

  await t.test('each query of the dashboard has data', async t => {
    for (const { name, expr } of queries) {
      const values = (await prometheus.query(expr)).flatMap(series => series.values.map(([, value]) => Number(value)))
      t.ok(values.some(value => value >= 0), `${name}: ${expr}`)
      if (!MAY_BE_0.has(name)) t.ok(values.some(value => value > 0), `${name} is more than 0 at some time`)
    }
  })

  await t.test('scrapes see a shutdown up to the drain; the file sees its end', async t => {
    const last = async (query: string) => Number((await prometheus.query(query))[0]?.values.at(-1)?.[1])
    // A scrape may come between the cut and the end of the listener, but need not.
    t.equal(await last('sum(fastify_graceful_requests_cut_total{job="files"})'), 1)
    for (const phase of ['delaying', 'draining']) {
      for (const one of instance) t.ok((await prometheus.query(`fastify_graceful_phase{job="api", ${one}, phase="${phase}"} == 1`)).length, `${one} ${phase}`)
    }
    t.equal(await last('fastify_graceful_phase_duration_seconds_count{job="files", phase="draining"}'), 1)
  })
})
