// The public types of fastify-graceful/testing.

import type { FastifyInstance } from 'fastify'
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http'
import type { Phase, ShutdownReport, ShutdownSignal } from './index.ts'

/** An instance of any kind: with TLS, with a type provider, with its own logger. */
export type AnyFastifyInstance = FastifyInstance<any, any, any, any, any> // oxlint-disable-line no-explicit-any

/** What a test request sends. */
export interface RequestOptions {
  /** The HTTP method. Default: `GET`. */
  method?: string
  /** The headers. Default: only those that Node adds. */
  headers?: OutgoingHttpHeaders
  /** The body, which needs a `content-type` header. Default: none. */
  body?: string | Uint8Array
}

/** What a client has read when its request is over. */
export interface ClientResponse {
  /** The status code; undefined if the connection was refused, or ended before a response. */
  status: number | undefined
  /** The headers, with names in lower case; empty without a response. */
  headers: IncomingHttpHeaders
  /** The body, as far as it has arrived. */
  body: string
  /**
   * The code of the error that kept the client from reading a whole response: `ECONNREFUSED` if nothing listens any more, `ECONNRESET` if
   * the connection was cut. Undefined if the response is complete.
   */
  error: string | undefined
}

/** A request with a response that has begun, from {@link ShutdownTest.open}. */
export interface OpenRequest {
  /** What the client has read; resolves when the request is over. Never rejects. */
  readonly response: Promise<ClientResponse>
}

/** A request that is held in flight, from {@link ShutdownTest.hold}. */
export interface HeldRequest extends OpenRequest {
  /** Lets the application handle the request, and resolves to {@link OpenRequest.response}. */
  release (): Promise<ClientResponse>
}

/** The shutdown of an instance, in a test, with clients that connect over real sockets. */
export interface ShutdownTest {
  /**
   * Sends a request and holds it in flight: it has arrived, so the drain waits for it, but none of the application's hooks and handlers
   * runs before it is released. Resolves when the request is held, or if it cannot connect, which its response then says. In the
   * report, a request that was cut while held has no route.
   * @param path path and query, with a leading slash
   */
  hold (path: string, options?: RequestOptions): Promise<HeldRequest>
  /**
   * Sends a request and resolves when its response has begun, such as an event stream, or if there is none.
   * @param path path and query, with a leading slash
   */
  open (path: string, options?: RequestOptions): Promise<OpenRequest>
  /**
   * Sends a request and resolves to what a client has read when it is over. Each request has a connection of its own, which could be
   * kept alive. Rejects only if the arguments are invalid, with `FST_ERR_GRACEFUL_OPTION_INVALID`,
   * `FST_ERR_GRACEFUL_OPTION_UNKNOWN` or an error of Node.
   * @param path path and query, with a leading slash
   */
  request (path: string, options?: RequestOptions): Promise<ClientResponse>
  /**
   * Starts the shutdown as the signal does: with the same reason, log and `shutdownDelay`, which SIGINT skips. No other listener to the
   * signal is called, no other instance shuts down, and the process goes on; a second call has no effect.
   * Throws `FST_ERR_GRACEFUL_OPTION_INVALID` if the instance does not listen to this signal: it would end the process at once.
   */
  signal (name: ShutdownSignal): void
  /**
   * Resolves when the phase has begun; at once, if it has begun before. Rejects with `FST_ERR_GRACEFUL_PHASE_SKIPPED` if the shutdown is
   * in a later phase without having been in this one, and with `FST_ERR_GRACEFUL_OPTION_INVALID` if there is no such phase.
   */
  reached (phase: Phase): Promise<void>
  /** The report; resolves when the shutdown is complete. */
  readonly report: Promise<ShutdownReport>
  /** Ends the test, also if it has failed: releases all requests, closes the connections of those that
   * `open()` has sent, skips the `shutdownDelay` and closes the instance. */
  close (): Promise<void>
}

/**
 * Prepares a test of an instance's shutdown. The instance listens on a free port of 127.0.0.1, unless it listens already.
 *
 * Rejects with `FST_ERR_GRACEFUL_OPTION_INVALID`, which names what is missing, if the argument is not a running Fastify instance with
 * fastify-graceful that serves HTTP/1.1 over TCP.
 */
export declare function testShutdown (fastify: AnyFastifyInstance): Promise<ShutdownTest>
