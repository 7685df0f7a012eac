import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Server } from 'node:net';
import type { Cuts } from './cuts.ts';
import type { InFlight } from './in-flight.ts';
import type { Options, Timeout } from './options.ts';
/** On a reply: Node's timer watches its progress. */
declare const kWatched: unique symbol;
/** On a reply: its route's own write timeout. */
declare const kWriteTimeout: unique symbol;
interface Timed extends FastifyReply {
    [kWatched]?: true;
    [kWriteTimeout]?: Timeout;
}
export declare class Timeouts {
    #private;
    constructor(options: Options, fastify: FastifyInstance, inFlight: InFlight, cuts: Cuts);
    /** Sets a listener's timeouts, before it listens. */
    apply(listener: Server): void;
    /** Takes note of a route's own write timeout; the route then calls `setFor` on each of its requests. */
    noteRoute(timeout: Timeout): void;
    setFor(reply: Timed, timeout: Timeout): void;
    /** Starts the sweep; it keeps no process alive. */
    start(): void;
    stop(): void;
}
export {};
