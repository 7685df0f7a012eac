// What the cases share.

import type { Test } from 'tap'
import type { Container, Podman } from './podman.ts'
import { RawClient } from '../helpers.ts'

/** By name. */
export type Cases = Record<string, (t: Test, podman: Podman) => Promise<void>>

/** Sends a request, and waits until the service has logged it. */
export async function request (container: Container, path: string): Promise<RawClient> {
  const client = new RawClient(container.port).get(path)
  const refused = client.closed.then(() => { throw new Error(`${path} was not received, ${client.error?.message ?? 'without an error'}`) })
  await Promise.race([container.log.line(/incoming request/), refused])
  return client
}

/** The messages of the plugin that it has a signal, and that the shutdown went well. */
export const RECEIVED = /^SIG\w+ received, shutting down$/
export const COMPLETE = /^Graceful shutdown complete$/
