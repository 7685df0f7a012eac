// The part of Stryker's instrumenter that is used. It is installed only for mutation testing, in this folder.

declare module '@stryker-mutator/instrumenter' {
  interface Position { line: number, column: number }
  interface Mutant { id: string, mutatorName: string, replacement: string, location: { start: Position, end: Position } }
  interface Options {
    ignorers: Array<{ shouldIgnore: (path: never) => string | undefined }>
    excludedMutations: string[]
    noHeader: boolean
    plugins: null
  }
  export class Instrumenter {
    constructor (logger: object)
    instrument (files: Array<{ name: string, mutate: boolean, content: string }>, options: Options):
    Promise<{ files: Array<{ content: string }>, mutants: Mutant[] }>
  }
}
