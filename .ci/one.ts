// Runs the named test files: npm run test:one -- gate. Options are passed on to tap: npm run test:one -- gate --grep=/upload/

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'

const args = process.argv.slice(2)
const names = args.filter(arg => !arg.startsWith('-'))
const files = names.map(name => `test/${name.replace(/^test\//, '').replace(/\.test\.ts$/, '')}.test.ts`)
const missing = files.filter(file => !existsSync(file))
if (files.length === 0 || missing.length > 0) {
  const all = ['', 'process/', 'system/'].flatMap(folder => readdirSync(`test/${folder}`).filter(file => file.endsWith('.test.ts')).map(file => folder + file.replace('.test.ts', '')))
  console.error(`${missing.map(file => `There is no ${file}.\n`).join('')}Usage: npm run test:one -- NAME...\nNames: ${all.join(', ')}`)
  process.exit(1)
}
const options = args.filter(arg => arg.startsWith('-'))
const { status } = spawnSync('tap', ['--reporter=terse', ...options, ...files], { stdio: 'inherit', shell: process.platform === 'win32' })
process.exit(status ?? 1)
