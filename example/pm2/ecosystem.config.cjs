// npx tsc -p example/docker/tsconfig.json
// pm2 start example/pm2/ecosystem.config.cjs && pm2 reload api
//
// On a reload, PM2 starts a new process, waits for its message 'ready', tells the old process to stop, and sends SIGKILL after
// kill_timeout. PM2 7 sends SIGINT on `reload`, and the message 'shutdown' on `stop` and `kill`; example/server.ts handles both.
//
// PM2 makes stdout asynchronous, and a process that exits loses its last lines: after a reload, PM2's log lacks the report.

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
    // Longer than SHUTDOWN_TIMEOUT.
    kill_timeout: 35_000,
    // `stop` waits for this delay. `reload` does not, because SIGINT skips it. During the delay, a worker serves its open
    // connections and closes each after the next response; new connections go to the other workers at once.
    env: { SHUTDOWN_TIMEOUT: '30', SHUTDOWN_DELAY: '1000' }
  }]
}
