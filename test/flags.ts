// The flags of the programs behind `npm run test:…`.

import { parseArgs, type ParseArgsConfig } from 'node:util'

/** Parses the flags of this program. An unknown or incomplete one prints the help, and ends the program with 1. */
export function readFlags<const C extends ParseArgsConfig> (help: string, config: C): ReturnType<typeof parseArgs<C>> {
  try {
    return parseArgs(config)
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${help}`)
    return process.exit(1)
  }
}
