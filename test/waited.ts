// How long a process has waited for a processor, because others used them.

import { readFileSync } from 'node:fs'

/** In milliseconds, of its main thread. Linux only: elsewhere, and once the process has exited, 0. */
export function waitedOf (pid: number | undefined): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[1]) / 1e6
  } catch {
    return 0
  }
}
