// Runs one test file of a suite in its own process.

import type { Installation } from './install.ts'
import type { InstanceEvent } from './instances.ts'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseTap, type TestResult } from './tap.ts'

/** Milliseconds that a file may take. */
const FILE_TIMEOUT = 90_000
/** The environment variables that are kept: other settings of npm and of the test runner would affect the tests. */
const KEPT = ['PATH', 'HOME', 'TMPDIR', 'LANG', 'TZ', 'XDG_CACHE_HOME']

/** The name of an additional test, which stands for the file as a whole. */
export const WHOLE_FILE = '(the file)'

/** How the tests of one file ended. */
export interface FileResult {
  tests: Map<string, TestResult>
  instances: InstanceEvent[]
  /** Warnings that the process printed, without its pid. */
  warnings: Set<string>
}

const running = new Set<number>()
process.on('exit', () => { for (const pid of running) kill(pid) })

export async function runFile (installation: Installation, folder: string, file: string, withPlugin: boolean): Promise<FileResult> {
  const { fastify, plugin, preload, scratch } = installation
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

  // A process group, because some tests start programs.
  // A built-in reporter, because a custom one delays the first test, which some files do not expect.
  const args = ['--test-reporter', 'tap', '--test-reporter-destination', tests, file]
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

  const result = { tests: parseTap(read(tests)), instances: readInstances(instances), warnings: warnings(stderr) }
  const failed = [...result.tests.values()].some(test => !test.passed)
  // The file as a whole: it may also fail outside of its tests.
  const passed = code === 0 || (code === 1 && failed)
  result.tests.set(WHOLE_FILE, { passed, onlyWithin: false, error: late ? 'does not end' : `exits with ${code ?? signal}\n${stderr.slice(-2_000)}` })
  return result
}

function readInstances (filename: string): InstanceEvent[] {
  return read(filename).split('\n').filter(line => line !== '').map(line => JSON.parse(line) as InstanceEvent)
}

function read (filename: string): string {
  return existsSync(filename) ? readFileSync(filename, 'utf8') : ''
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
