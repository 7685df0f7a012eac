import type { FastifyBaseLogger } from 'fastify';
import type { ShutdownReport } from '../types/index.ts';
import type { Callbacks } from './callbacks.ts';
import type { Connections } from './connections.ts';
import type { Cuts } from './cuts.ts';
import type { Gate } from './gate.ts';
import type { InFlight } from './in-flight.ts';
import type { Options } from './options.ts';
import type { PhaseClock } from './phase.ts';
export interface Parts {
    readonly options: Options;
    readonly log: FastifyBaseLogger;
    readonly phase: PhaseClock;
    readonly inFlight: InFlight;
    readonly connections: Connections;
    readonly cuts: Cuts;
    readonly gate: Gate;
    readonly callbacks: Callbacks;
    /** Fastify's own close: its preClose hooks, its listeners, the onClose hooks of all plugins. */
    readonly close: () => Promise<void>;
    /** Lets go of what lives only while the instance listens. */
    readonly release: () => void;
}
export declare class Shutdown {
    #private;
    constructor(parts: Parts);
    /** Starts the shutdown, or joins the one under way. It never rejects. */
    start(reason: string, errors?: readonly Error[]): Promise<ShutdownReport>;
    /** Waits for a shutdown, whoever starts it. */
    wait(): Promise<ShutdownReport>;
    /** `fastify.close()`: the same, and it rejects where Fastify's own close does. */
    close(): Promise<void>;
    /** Starts the shutdown where nobody has, and waits until nothing is in flight any more. */
    drained(): Promise<void>;
}
