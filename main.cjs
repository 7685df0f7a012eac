'use strict'

// What `require('fastify-graceful')` returns: the plugin itself, as Fastify's own plugins do. ES modules get it by default
// and by name. Built from index.ts, which is the map of the source.

const { gracefulPlugin } = require('./dist/index.js')

module.exports = gracefulPlugin
module.exports.default = gracefulPlugin
module.exports.gracefulPlugin = gracefulPlugin
