// The configurations on the pages, checked by the load balancers.

import type { BalancerName } from './balancers.ts'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pages, ROOT } from '../pages.ts'

interface Check {
  language: string
  /** The file of a snippet. */
  complete: (code: string) => string
  args: (file: string) => string[]
}

const CHECKS: Partial<Record<BalancerName, Check>> = {
  haproxy: {
    language: 'haproxy',
    complete: code => `${code}\nfrontend web\n  bind 127.0.0.1:8080\n  default_backend service\n`,
    args: file => ['-c', '-dW', '-f', file]
  },
  caddy: { language: 'caddyfile', complete: code => code, args: file => ['validate', '--adapter', 'caddyfile', '--config', file] },
  nginx: {
    language: 'nginx',
    // Within the example's http block. Only root may listen on port 80.
    complete: code => readFileSync(`${ROOT}example/nginx/nginx.conf`, 'utf8')
      .replace(/^ *# upstream[^]*/m, () => `${code.replace('listen 80;', 'listen 127.0.0.1:8080;')}}\n`),
    args: file => ['-t', '-p', dirname(file), '-c', file, '-e', 'error.log']
  }
}

/** What a load balancer says about each snippet that it does not accept. */
export function refusedSnippets (balancer: BalancerName, directory: string): string[] {
  const check = CHECKS[balancer]
  if (check === undefined) return []
  mkdirSync(join(directory, 'tmp'), { recursive: true })
  const snippets = pages().flatMap(({ path, fences }) =>
    fences.filter(({ language }) => language === check.language).map(({ line, code }) => ({ name: `${path}:${line}`, code })))
  if (snippets.length === 0) return [`The pages have no snippet for ${balancer}`]
  return snippets.flatMap(({ name, code }) => {
    const file = join(directory, check.language)
    writeFileSync(file, check.complete(code))
    const env = { ...process.env, HOME: directory, XDG_CONFIG_HOME: directory, XDG_DATA_HOME: directory }
    const { status, stderr } = spawnSync(balancer, check.args(file), { env, encoding: 'utf8' })
    return status === 0 ? [] : `${balancer} does not accept ${name}:\n${stderr}`
  })
}
