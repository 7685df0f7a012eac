// Shutdowns of the workers of node:cluster.

import t from 'tap'
import type { LogLine } from '../helpers.ts'
import { eventually, fork, FORKED, portOf, portOfWorkers, RawClient } from '../helpers.ts'

t.jobs = 3

t.test('node:cluster: Ctrl-C ends the primary at once, and the workers finish their requests', async t => {
  const service = fork(t, 'cluster')
  const port = await portOfWorkers(service)
  const clients = [new RawClient(port).get('/slow'), new RawClient(port).get('/slow')]
  await eventually(() => service.log.messages(/slow request is in/).length === 2, FORKED)
  service.killGroup('SIGINT')
  await Promise.all(clients.map(async ({ closed }) => { await closed }))
  for (const { text } of clients) t.match(text, /^HTTP\/1\.1 200 OK\r\n(?:.+\r\n)*connection: close\r\n[^]*slow$/i)
  t.match(await service.exit, { signal: 'SIGINT' }, 'the primary; the workers keep its output open')
  // Not line by line, because two processes write to one pipe.
  t.equal(service.output().match(/"msg":"callback runs: (SIGINT|disconnect)"/g)?.length, 2)
  t.equal(service.output().match(/"msg":"Graceful shutdown complete"/g)?.length, 2)
})

t.test('node:cluster: the drain waits for the preClose hooks, although a worker stops listening first', async t => {
  const service = fork(t, 'cluster', { PRE_CLOSE: '500' })
  await portOf(service)
  service.killGroup('SIGINT')
  const { pid } = (await service.log.line(/^Graceful shutdown complete$/)) as LogLine & { pid: number }
  const told = service.log.lines.filter(line => line['pid'] === pid).map(({ msg }) => msg)
  t.ok(told.indexOf('preClose hook ends') < told.findIndex(msg => msg.startsWith('All requests drained')), told.join('; '))
})

t.test('node:cluster: if the primary is gone, its workers shut down gracefully', async t => {
  const service = fork(t, 'cluster')
  const port = await portOfWorkers(service)
  const client = new RawClient(port).get('/slow')
  await service.log.line(/slow request is in/)
  service.kill('SIGKILL')
  await client.closed
  t.match(client.text, /200 OK[^]*slow$/)
  await service.exit
  t.equal(service.output().match(/"msg":"callback runs: disconnect"/g)?.length, 2)
})

t.test('node:cluster: SIGTERM to a worker ends only that worker', async t => {
  const service = fork(t, 'cluster')
  const port = await portOfWorkers(service)
  const client = new RawClient(port).get('/slow')
  const { pid } = await service.log.line(/slow request is in/) as unknown as { pid: number }
  process.kill(pid, 'SIGTERM')
  await client.closed
  t.match(client.text, /200 OK[^]*slow$/)
  t.match(await service.log.line(/^worker exited/), { msg: 'worker exited: 0 null' })
  t.strictSame(service.log.messages(/^callback runs/), ['callback runs: SIGTERM'])
  const other = new RawClient(port).get('/', ['Connection: close'])
  await other.closed
  t.match(other.text, /200 OK/)
})

t.test('node:cluster: if all workers shut down, new connections are served during the delay, and are told that no worker is ready', async t => {
  const service = fork(t, 'cluster', { DELAY: '3000' })
  const port = await portOfWorkers(service)
  const listening = service.log.lines.filter(({ msg }) => msg.startsWith('Server listening')) as unknown as Array<{ pid: number }>
  for (const { pid } of listening) process.kill(pid, 'SIGTERM')
  await eventually(() => service.log.messages(/still serving for 3000ms/).length === 2, FORKED)
  for (const [path, status] of [['/', 200], ['/ready', 503]] as const) {
    const clients = Array.from({ length: 8 }, () => new RawClient(port).get(path))
    await Promise.all(clients.map(async ({ closed }) => { await closed }))
    for (const { text } of clients) t.match(text, new RegExp(`^HTTP/1\\.1 ${status} (?:.+\r\n)*connection: close`, 'i'), path)
  }
  t.strictSame(service.log.messages(/^Waiting for/), [], 'still in the delay')
  t.match(await service.exit, { code: 0 })
  t.strictSame(service.log.messages(/^worker exited/), ['worker exited: 0 null', 'worker exited: 0 null'])
})

t.test('node:cluster: while a worker shuts down, new connections are served by the other one', async t => {
  const service = fork(t, 'cluster')
  const port = await portOfWorkers(service)
  const stopped = new AbortController()
  let answers = 0
  const lost: string[] = []
  const loop = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const client = new RawClient(port).get('/', ['Connection: close'])
      await client.closed
      answers++
      if (!/^HTTP\/1\.1 200 OK[^]*served by \d+$/.test(client.text)) lost.push(`${client.error?.message} ${client.text}`)
    }
  }
  const loops = Array.from({ length: 10 }, loop)
  await eventually(() => answers > 100, FORKED)
  const { pid } = service.log.lines.find(({ msg }) => msg.startsWith('Server listening')) as unknown as { pid: number }
  process.kill(pid, 'SIGTERM')
  await service.log.line(/^worker exited/)
  const before = answers
  await eventually(() => answers > before + 100, FORKED)
  stopped.abort()
  await Promise.all(loops)
  t.strictSame(lost, [])
})
