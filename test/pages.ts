// README.md and docs/*.md as data: code blocks, tables, headings, links.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))

export interface Fence {
  language: string
  /** Whether it is a complete service, or a file of tests, that a test runs. */
  runs: boolean
  code: string
  /** The line of the page on which it starts. */
  line: number
}

export interface Page {
  /** Its path from the root of the project. */
  path: string
  text: string
  fences: Fence[]
}

/** A page of the project, by its path. */
export function page (path: string): Page {
  const text = readFileSync(`${ROOT}${path}`, 'utf8')
  const fences = [...text.matchAll(/^( *)```(\S*) ?(.*)\n([^]*?)^\1```$/gm)].map(({ index, 2: language = '', 3: flag = '', 4: code = '' }) => {
    if (flag !== '' && flag !== 'run') throw new Error(`${path}: a fence with an unknown flag, "${flag}"`)
    return { language, runs: flag === 'run', code, line: text.slice(0, index).split('\n').length }
  })
  return { path, text, fences }
}

/** README.md and all pages of docs/. */
export function pages (): Page[] {
  const docs = existsSync(`${ROOT}docs`) ? readdirSync(`${ROOT}docs`).filter(name => name.endsWith('.md')) : []
  return ['README.md', ...docs.map(name => `docs/${name}`)].map(page)
}

/** The text under a heading, up to the next heading of the same or a higher level. */
export function section ({ text, path }: Page, heading: string): string {
  const lines = text.split('\n')
  const start = lines.findIndex(line => /^#+ /.test(line) && line.replace(/^#+ /, '') === heading)
  if (start === -1) throw new Error(`${path} has no heading "${heading}"`)
  const level = (lines[start] as string).indexOf(' ')
  const rest = lines.slice(start + 1)
  const end = rest.findIndex(line => /^#+ /.test(line) && line.indexOf(' ') <= level)
  return rest.slice(0, end === -1 ? rest.length : end).join('\n')
}

/** The rows of all tables in a text, as cells, without the table heads. */
export function rows (text: string): string[][] {
  return text.split('\n').filter((line, index, lines) => line.startsWith('|') && !/^\|[-| :]+\|$/.test(line) && !/^\|[-| :]+\|$/.test(lines[index + 1] ?? ''))
    .map(line => line.replace(/^\| ?| ?\|$/g, '').split(/ ?(?<!\\)\| ?/).map(cell => cell.trim()))
}

/** The contents of backticks. */
export function codes (text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, code = '']) => code)
}

/** The times that snippets and inline code pass to the plugin, each with its place. First arguments of calls are not included. */
export function timesGiven ({ path, text }: Page): Array<{ where: string, options: Record<string, number> }> {
  return [...text.matchAll(/(?<!\w\()\{([^{}]*\b(?:shutdownTimeout|drainTimeout|shutdownDelay): [\d_]+[^{}]*)/g)].map(({ index, 1: inner = '' }) => ({
    where: `${path}:${text.slice(0, index).split('\n').length}`,
    options: Object.fromEntries([...inner.matchAll(/(\w+): ([\d_]+)/g)].map(([, name = '', value = '']) => [name, Number(value.replaceAll('_', ''))]))
  }))
}

/** The anchors of a page's headings on GitHub. */
export function anchors ({ text }: Page): Set<string> {
  const names = new Set<string>()
  for (const [, heading = ''] of text.replaceAll(/^( *)```[^]*?^\1```$/gm, '').matchAll(/^#+ (.*)$/gm)) {
    const name = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase().replaceAll(/[^\p{L}\p{N}\p{M} _-]/gu, '').replaceAll(' ', '-')
    let unique = name
    for (let count = 1; names.has(unique); count++) unique = `${name}-${count}`
    names.add(unique)
  }
  return names
}

/** The targets of all links and pictures of a page. */
export function links ({ text }: Page): string[] {
  const prose = text.replaceAll(/^( *)```[^]*?^\1```$/gm, '').replaceAll(/`[^`\n]*`/g, '')
  return [...prose.matchAll(/\]\(([^)\s]+)[^)]*\)|(?:href|src|srcset)="([^"\s]+)/g)].map(([, target, attribute = '']) => target ?? attribute)
}

/**
 * The names of the members of a public type, or of an interface that it declares in Fastify's module; each once, although a method
 * may have several signatures.
 */
export function membersOf (type: string, file = 'index'): string[] {
  const source = readFileSync(`${ROOT}types/${file}.ts`, 'utf8')
  const [, indentation = '', body] = new RegExp(`^( *)(?:export )?(?:interface ${type} [^]*?|type ${type} = [^]*?)\\{\n([^]*?)^\\1\\}`, 'm').exec(source) ?? []
  if (body === undefined) throw new Error(`types/${file}.ts has no type ${type}`)
  const members = body.matchAll(new RegExp(`^${indentation}  (?:readonly )?(\\w+)(?:\\?|<[^>]*>+| )?[^\n]*?[:(]`, 'gm'))
  return [...new Set([...members].map(([, name = '']) => name))]
}
