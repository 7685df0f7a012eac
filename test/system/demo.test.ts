// `npm run demo`, in a terminal and without one.

import t, { type Test } from 'tap'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { eventually, runCommand, type Program } from '../helpers.ts'
import { parse } from '../pictures/parse.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const DEMO = [process.execPath, '--import', 'tsx', 'example/demo.ts']
const IN_COLOUR = { TERM: 'xterm', NO_COLOR: '' }
const ESCAPE = '\x1b'
const TOP = `${ESCAPE}[H`
const LEAVE = `${ESCAPE}[?1049l`
/** Other programs with this name have other options. */
const needsScript = process.platform === 'linux' && existsSync('/usr/bin/script') ? false : 'needs script of util-linux'

/** In a terminal of 80 columns and 24 rows. The first line of the output is the name of the terminal. */
function runInTerminal (t: Test, env: Record<string, string>): Program {
  const command = `tty; stty cols 80 rows 24; exec ${DEMO.map(word => `'${word}'`).join(' ')}`
  return runCommand(t, ['/usr/bin/script', '--quiet', '--return', '--flush', '--command', command, '/dev/null'], env)
}

/** The modification time of each file of the examples. */
function snapshot (): Array<[path: string, time: number]> {
  const files = readdirSync(`${ROOT}example`, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
  return files.map(({ parentPath, name }) => [`${parentPath}/${name}`, statSync(`${parentPath}/${name}`).mtimeMs])
}

const linesOf = (text: string): string[] => text.split('\n').map(line => line.replaceAll('\r', ''))
// eslint-disable-next-line no-control-regex -- control codes are what it looks for
const shown = (text: string): string => text.replaceAll(/\x1b\[[?\d;]*[a-zA-Z]/g, '')
const widest = (lines: readonly string[]): number => Math.max(...lines.map(line => line.length))

t.jobs = 3

t.test('writes plain lines of at most 80 columns to a pipe, draws a picture to the file that --picture names, and changes no other file', async t => {
  const before = snapshot()
  const path = `${t.testdir()}/picture.svg`
  const program = runCommand(t, [...DEMO, '--picture', path], IN_COLOUR)
  t.equal((await program.exit).code, 0)
  const output = program.output()
  t.notMatch(output, ESCAPE)
  t.ok(widest(linesOf(output)) <= 80)
  t.match(output, / draining .*\n/)
  t.match(output, /Exit code +0\n/)
  t.equal(parse(readFileSync(path, 'utf8'))[0]?.name, 'svg')
  t.strictSame(snapshot(), before)
})

t.test('draws on one screen, follows a resize, and restores the screen with a table at the end', { skip: needsScript }, async t => {
  const SMALL = { columns: 50, rows: 12 }
  const program = runInTerminal(t, IN_COLOUR)
  await eventually(() => /draining/.test(shown(program.output())), 30_000)
  const terminal = linesOf(program.output())[0] as string
  execFileSync('stty', ['-F', terminal, 'cols', String(SMALL.columns), 'rows', String(SMALL.rows)])
  t.equal((await program.exit).code, 0)
  const output = program.output()
  const [during = '', after = ''] = output.split(LEAVE)
  const screens = during.split(TOP).slice(1).map(screen => linesOf(shown(screen)))
  t.ok(screens.length > 20)
  t.ok(screens.every(lines => lines.length <= 24 && widest(lines) <= 80))
  const wide = screens.filter(lines => widest(lines) > SMALL.columns)
  t.ok(wide.length > 5, 'uses the available width')
  const last = screens.at(-1) ?? []
  t.ok(last.length <= SMALL.rows && widest(last) <= SMALL.columns, last.join('\n'))
  t.match(output, `${ESCAPE}[32m`, 'coloured')

  const table = linesOf(shown(after))
  t.ok(table.length < 24 && widest(table) <= SMALL.columns, table.join('\n'))
  t.match(table.join('\n'), /Exit code +0\n/)
})

t.test('writes plain lines to a terminal whose user has set NO_COLOR', { skip: needsScript }, async t => {
  const program = runInTerminal(t, { TERM: 'xterm', NO_COLOR: '1' })
  t.equal((await program.exit).code, 0)
  t.notMatch(program.output(), ESCAPE)
  t.match(program.output(), / draining .*\r\n/)
})
