// @fastify/autoload with fastify-cli: an application in folders.

import t from 'tap'
import { programPath, startInstalled } from './service.ts'

// fastify-cli reads a port of 0 only from the environment, and stops waiting for close() after 500 ms by default.
const OPTIONS = ['--address', '127.0.0.1', '--log-level', 'info', '--close-grace-delay', '31000']

t.test('an application that fastify-cli starts answers requests in flight, and then closes what its plugins opened', async t => {
  const args = ['start', ...OPTIONS, programPath('autoload/app.cjs')]
  const service = await startInstalled(t, 'fastify-cli/cli.js', args, { PORT: '0' })
  const rows = service.get('/rows')
  await service.holds('/rows')
  await service.sigterm()
  const refused = await service.get('/rows')
  await service.release()

  t.match(refused, { status: 503, complete: true, body: /FST_ERR_GRACEFUL_SHUTTING_DOWN/ })
  t.match(await rows, { status: 200, complete: true, body: /^row$/ })
  const report = { completed: 1, refused: 1, cut: { length: 0 }, callbacks: [{ name: 'database' }] }
  t.match(await service.ended(), { code: 0, report, complaints: { length: 0 } })
})
