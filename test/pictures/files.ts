// The pictures of the project.

import { readdirSync, readFileSync } from 'node:fs'

const ROOT = new URL('../..', import.meta.url)
const FOLDERS = ['example', 'bench/results', 'bench/reconnects', 'test/soak']

/** By path from the root of the project. */
export function pictures (): Array<{ path: string, svg: string }> {
  const paths = FOLDERS.flatMap(folder => readdirSync(new URL(folder, ROOT)).filter(name => name.endsWith('.svg')).map(name => `${folder}/${name}`))
  return paths.sort().map(path => ({ path, svg: readFileSync(new URL(path, ROOT), 'utf8') }))
}
