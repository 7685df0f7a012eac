// Makes copies of the repository in which index.ts and lib/ contain all mutants, each switched on by an environment variable.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { Instrumenter } from '@stryker-mutator/instrumenter'
import { transformSync } from '@swc/wasm-typescript'
import { transformSync as compile } from 'esbuild'

export interface Mutant {
  /** `lib/clock.ts:12`; changes only with the code of the file. */
  id: string
  file: string
  line: number
  mutator: string
  original: string
  replacement: string
}

export interface Source {
  file: string
  /** Of the code without types, comments and line breaks. */
  hash: string
  code: string
  mutants: Mutant[]
  ignored: number
}

/** A node of Babel's syntax tree, as far as the rule below reads it. */
interface Node {
  type: string
  loc: { start: Position, end: Position }
  name?: string
  operator?: string
  callee?: Node
  property?: Node
}

interface Position {
  line: number
  column: number
}

interface Path {
  node: Node
  parentPath: Path | null
  key: string | number
  listKey?: string
}

/** Where a copy has runtime.mjs: below lib/, because tests copy that. */
const RUNTIME = 'lib/mutants.mjs'

const LOG_METHODS = new Set(['debug', 'info', 'warn', 'error'])

/**
 * Whether a string is a message for people: the text of a log line, of a coded error or of an internal error. Its wording is no behaviour;
 * the expressions in a template, and what decides between two texts, are mutated.
 */
function isMessage (path: Path): boolean {
  const { key, listKey, parentPath: parent } = path
  if (parent === null) return false
  const { type, operator, callee } = parent.node
  if ((type === 'ConditionalExpression' && key !== 'test') || (type === 'BinaryExpression' && operator === '+')) return isMessage(parent)
  if (listKey !== 'arguments') return false
  if (type === 'NewExpression') return key === 0 && /^(?:Type)?Error$/.test(callee?.name ?? '')
  if (callee?.name === 'createError') return key === 1
  return key === 0 && callee?.type === 'MemberExpression' && LOG_METHODS.has(callee.property?.name ?? '')
}

function hashOf (text: string): string {
  const { code } = compile(text, { loader: 'ts', minifyWhitespace: true, tsconfigRaw: { compilerOptions: { verbatimModuleSyntax: true } } })
  return createHash('sha256').update(code).digest('hex').slice(0, 12)
}

/** Babel counts lines from 1, and Stryker from 0. */
const keyOf = (start: Position, end: Position, firstLine: number) =>
  [start.line - firstLine, start.column, end.line - firstLine, end.column].join(',')

const logger = { debug () {}, info () {}, isDebugEnabled: () => false }

/** Instruments one file. Types are replaced with spaces first, because Stryker does not look into `… as Type`. */
export async function instrument (root: string, file: string): Promise<Source> {
  const text = readFileSync(join(root, file), 'utf8')
  const { code: content } = transformSync(text, { mode: 'strip-only', module: true })
  const messages = new Set<string>()
  const noteMessages = (path: Path): undefined => {
    const { type, loc: { start, end } = {} } = path.node as Partial<Node>
    if (/^(?:String|Template)Literal$/.test(type ?? '') && start && end && isMessage(path)) messages.add(keyOf(start, end, 1))
  }
  const options = { ignorers: [{ shouldIgnore: noteMessages }], excludedMutations: [], noHeader: true, plugins: null }
  const { files: [result], mutants } = await new Instrumenter(logger)
    .instrument([{ name: `${file}.js`, mutate: true, content }], options)
  const lines = content.split('\n')
  const textOf = (start: Position, end: Position) => lines.slice(start.line, end.line + 1).map((line, index, all) =>
    line.slice(index === 0 ? start.column : 0, index === all.length - 1 ? end.column : undefined).trim()).join(' ')
  const kept = mutants.filter(({ mutatorName, location: { start, end } }) => mutatorName !== 'StringLiteral' || !messages.has(keyOf(start, end, 0)))
  const header = `import { mutantsOf } from './${relative(dirname(file), RUNTIME)}'\n` +
    `const { isActive: stryMutAct_9fa48, cover: stryCov_9fa48 } = mutantsOf(${JSON.stringify(file)})\n`
  return {
    file,
    hash: hashOf(text),
    code: header + String(result?.content),
    ignored: mutants.length - kept.length,
    mutants: kept.map(({ id, mutatorName, replacement, location: { start, end } }) => ({
      id: `${file}:${id}`, file, line: start.line + 1, mutator: mutatorName, original: textOf(start, end), replacement
    }))
  }
}

/** Copies what Git tracks, or would, with instrumented sources. Tests that run at the same time each have their own copy. */
export function copy (root: string, target: string, sources: readonly Source[]): void {
  rmSync(target, { recursive: true, force: true })
  const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], { cwd: root, encoding: 'utf8' })
  for (const file of files.split('\0').filter(name => name !== '' && existsSync(join(root, name)))) {
    mkdirSync(dirname(join(target, file)), { recursive: true })
    cpSync(join(root, file), join(target, file))
  }
  for (const folder of ['', 'test', 'example', 'bench']) {
    const modules = join(root, folder, 'node_modules')
    if (existsSync(modules)) symlinkSync(modules, join(target, folder, 'node_modules'))
  }
  cpSync(join(root, 'tools/mutation/runtime.mjs'), join(target, RUNTIME))
  for (const { file, code } of sources) writeFileSync(join(target, file), code)
}
