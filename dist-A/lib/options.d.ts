import type { GracefulOptions, ProbeCheck, ProcessEvent, GracefulRouteOptions, CallbackOptions } from '../types/index.ts';
/** All that close-with-grace listens to; it does not export its lists. A test holds the two together. */
export declare const PROCESS_EVENTS: readonly ProcessEvent[];
export declare const DEFAULTS: {
    readonly shutdownTimeout: 30000;
    readonly drainTimeout: 25000;
    readonly shutdownDelay: 0;
    readonly readTimeout: 10000;
    readonly writeTimeout: 10000;
    readonly idleTimeout: 120000;
    readonly signals: true;
    readonly health: '/health';
    readonly ready: '/ready';
};
export type Timeout = number | false;
export interface Probe {
    readonly path: string;
    readonly checks: Readonly<Record<string, ProbeCheck>>;
    readonly checkTimeout: number;
    readonly logLevel: string | undefined;
}
/** Options after validation: complete and frozen. */
export interface Options {
    readonly shutdownTimeout: number;
    readonly drainTimeout: number;
    readonly shutdownDelay: number;
    readonly readTimeout: Timeout;
    readonly writeTimeout: Timeout;
    readonly idleTimeout: Timeout;
    readonly signals: readonly ProcessEvent[];
    readonly health: Probe | false;
    readonly ready: Probe | false;
    /** The timeouts that the user gave; the others yield to what was given to Fastify. */
    readonly given: ReadonlySet<string>;
}
/** Validates what the user gave, without touching it. */
export declare function resolveOptions(input: GracefulOptions): Options;
/** Validates a route's `config.gracefulShutdown`. */
export declare function resolveRouteOptions(url: string, config: GracefulRouteOptions | undefined): GracefulRouteOptions;
/** Validates the options of a shutdown callback. */
export declare function resolveCallbackOptions(options: CallbackOptions, shutdownTimeout: number): CallbackOptions;
/** A value as the user wrote it, with its type where that is the mistake. */
export declare function show(value: unknown): string;
