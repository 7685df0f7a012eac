// npx tsc -p example/docker/tsconfig.json
// pm2 start example/pm2/ecosystem.config.cjs && pm2 reload api
//
// PM2 starts a new process, waits for its 'ready', sends the old one 'shutdown', and ends it by force after
// kill_timeout; example/server.ts speaks with it.

module.exports = {
  apps: [{
    name: 'api',
    cwd: `${__dirname}/../..`,
    script: 'dist/example/server.js',
    exec_mode: 'cluster',
    instances: 2,
    wait_ready: true,
    listen_timeout: 20_000,
    shutdown_with_message: true,
    // More than SHUTDOWN_TIMEOUT.
    kill_timeout: 35_000,
    // With a delay, a worker serves on over the connections that it has, and tells each that it is the last time; new
    // ones go to the other workers at once.
    env: { SHUTDOWN_TIMEOUT: '30', SHUTDOWN_DELAY: '1000' }
  }]
}
