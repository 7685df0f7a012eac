import type { FastifyError } from '@fastify/error';
import type { FastifyBaseLogger, FastifyReply } from 'fastify';
import type { InFlightEntry } from '../types/index.ts';
import type { InFlight } from './in-flight.ts';
import type { PhaseClock } from './phase.ts';
export declare class Cuts {
    #private;
    constructor(phase: PhaseClock, inFlight: InFlight, log: FastifyBaseLogger);
    /** Who was cut since the shutdown began. */
    get list(): InFlightEntry[];
    /** Ends a request in its handler's place. The handler itself cannot be stopped, and counts until it settles. */
    cut(reply: FastifyReply, error: FastifyError): void;
    /** Cuts everybody who is in flight; background work can only be named. */
    cutAll(error: FastifyError): void;
}
