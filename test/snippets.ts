// The CommonJS snippets of README.md and docs/*.md, for a type check.

import { spawnSync } from 'node:child_process'
import { ROOT } from './pages.ts'

/** What CommonJS snippets that export a function take as its parameters, by their names. */
const PARAMETERS: Record<string, string> = {
  app: "import('@nestjs/platform-fastify').NestFastifyApplication",
  database: '{ end: () => Promise<void> }',
  exporter: "import('@opentelemetry/sdk-trace-base').SpanExporter",
  fastify: "import('fastify').FastifyInstance"
}

const EXPORT = /^((?:module\.)?exports(?:\.\w+)? = (?:async )?function (\w+) \()([^)]*)/m

/** The name of the function that a CommonJS snippet exports, if it exports one. */
export function nameOf (code: string): string | undefined {
  return EXPORT.exec(code)?.[2]
}

/** A CommonJS snippet whose exported function has typed parameters. Its lines have the same numbers. */
export function typed (code: string): string {
  return code.replace(EXPORT, (_, start: string, _name: string, parameters: string) => start + parameters.split(', ')
    .map(name => name in PARAMETERS ? `/** @type {${PARAMETERS[name]}} */ ${name}` : name).join(', '))
}

/** The options with which snippets are compiled. */
export const COMPILER_OPTIONS = {
  target: 'es2022',
  lib: ['es2023'],
  module: 'nodenext',
  moduleDetection: 'force',
  types: ['node'],
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  allowJs: true,
  checkJs: true,
  allowImportingTsExtensions: true,
  experimentalDecorators: true
}

/** What the compiler prints about a project; nothing if it finds no errors. */
export function compile (project: string): string {
  const { stdout, stderr } = spawnSync('env', [
    '-u', 'NODE_OPTIONS', '-u', 'NODE_V8_COVERAGE', process.execPath, `${ROOT}node_modules/.bin/tsc`, '-p', project
  ], { encoding: 'utf8' })
  return stdout + stderr
}
