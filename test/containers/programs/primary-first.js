// What a primary must not do: exit at the signal, before its workers.

import cluster from 'node:cluster'

if (cluster.isPrimary) {
  cluster.fork()
  process.on('SIGTERM', () => { process.exit(0) })
} else {
  await import('./server.js')
}
