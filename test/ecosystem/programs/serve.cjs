'use strict'

// What the programs have in common. They hold requests that arrived before SIGTERM until the test requests `/release`.

const Fastify = require('fastify')
const gracefulPlugin = require('fastify-graceful')

let release
const released = new Promise(resolve => { release = resolve })

/** Logs that the request is held. Resolves when the test releases the held requests. */
exports.hold = async function hold ({ log, url }) {
  log.info(`holds ${url}`)
  await released
}

/** Adds the routes that each program has. */
exports.addRoutes = function addRoutes (app) {
  app.get('/held', async request => {
    await exports.hold(request)
    return 'held'
  })
  // Opted out, so that it is served while the program drains.
  app.get('/release', { config: { gracefulShutdown: false } }, async () => {
    release()
    return 'released'
  })
}

/** Listens with the plugin under test, the routes, and what the program adds; `before` runs before the plugin is registered. */
exports.serve = function serve (addPlugins, { before = async () => {} } = {}) {
  const listen = async () => {
    const app = Fastify({ logger: true })
    await before(app)
    await app.register(gracefulPlugin)
    exports.addRoutes(app)
    await addPlugins(app)
    await app.listen({ port: 0, host: '127.0.0.1' })
  }
  // If it fails, the process ends with the error on stderr.
  void listen()
}
