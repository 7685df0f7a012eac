// Runs one test file of a suite, in a process of its own.

import type { Installation } from './install.ts'
import type { InstanceEvent, TestEvent } from './results.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Milliseconds that one file may take. */
const FILE_TIMEOUT = 180_000
/** What is left of the environment: npm's and the test runner's own settings would reach the tests. */
const KEPT = ['PATH', 'HOME', 'TMPDIR', 'LANG', 'TZ', 'XDG_CACHE_HOME']

/** How the tests of one file ended. */
export interface FileResult {
  tests: Map<string, TestEvent>
  instances: InstanceEvent[]
  /** Warnings that the process printed, without its id. */
  warnings: Set<string>
}

const running = new Set<number>()
process.on('exit', () => { for (const pid of running) kill(pid) })

export async function runFile (installation: Installation, suite: string, file: string, withPlugin: boolean): Promise<FileResult> {
  const { modules, fastify, plugin, preload, reporter, scratch } = installation
  const folder = join(modules, suite)
  const directory = mkdtempSync(join(scratch, 'file-'))
  const [tests, instances] = [join(directory, 'tests'), join(directory, 'instances')]
  const env: Record<string, string> = {
    NODE_OPTIONS: `--require "${preload}"`,
    FOREIGN_FASTIFY: fastify,
    FOREIGN_FOLDER: folder,
    FOREIGN_RECORDS: instances
  }
  if (withPlugin) env.FOREIGN_PLUGIN = plugin
  for (const name of KEPT) if (process.env[name] !== undefined) env[name] = process.env[name]

  // A process group, since some tests start programs.
  const args = ['--test-reporter', reporter, '--test-reporter-destination', tests, file]
  const child = spawn(process.execPath, args, { cwd: folder, env, detached: true, stdio: ['ignore', 'ignore', 'pipe'] })
  const pid = child.pid as number
  running.add(pid)
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => { stderr += chunk })
  let late = false
  const timer = setTimeout(() => {
    late = true
    kill(pid)
  }, FILE_TIMEOUT)
  const [code, signal] = await once(child, 'close') as [number | null, string | null]
  clearTimeout(timer)
  running.delete(pid)

  const result = { tests: named(read<TestEvent>(tests)), instances: read<InstanceEvent>(instances), warnings: warnings(stderr) }
  const failed = [...result.tests.values()].some(({ passed }) => !passed)
  // The file as a whole: it may fail outside of its tests.
  const passed = code === 0 || (code === 1 && failed)
  const error = late ? 'does not end' : `exits with ${code ?? signal}\n${stderr.slice(-2_000)}`
  result.tests.set('(the file)', passed ? { test: '(the file)', passed } : { test: '(the file)', passed, error })
  return result
}

/** Tests by their names; of several with the same name, the later ones get a number. */
function named (events: readonly TestEvent[]): Map<string, TestEvent> {
  const tests = new Map<string, TestEvent>()
  for (const event of events) {
    let name = event.test
    for (let number = 2; tests.has(name); number++) name = `${event.test} (${number})`
    tests.set(name, event)
  }
  return tests
}

function read<T> (filename: string): T[] {
  if (!existsSync(filename)) return []
  return readFileSync(filename, 'utf8').split('\n').filter(line => line !== '').map(line => JSON.parse(line) as T)
}

function warnings (stderr: string): Set<string> {
  return new Set(Array.from(stderr.matchAll(/^\(node:\d+\) (.*Warning: .*)$/gm), ([, text = '']) => text))
}

function kill (pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}
