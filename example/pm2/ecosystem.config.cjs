// npx tsc -p example/docker/tsconfig.json
// pm2 start example/pm2/ecosystem.config.cjs && pm2 reload api
//
// PM2 starts a new process, waits for its 'ready', tells the old one to go, and ends it by force after kill_timeout. As of
// PM2 7, `reload` tells it by SIGINT, and `stop` and `kill` by the message 'shutdown'; example/server.ts hears both.
//
// PM2 has stdout write later, and a process that exits takes the last lines with it: after a reload, the report is missing
// in PM2's log.

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
