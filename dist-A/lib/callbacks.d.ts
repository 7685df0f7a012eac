import type { FastifyBaseLogger } from 'fastify';
import type { CallbackOptions, CallbackReport, ShutdownCallback } from '../types/index.ts';
export declare class Callbacks {
    #private;
    constructor(shutdownTimeout: number);
    register(callback: ShutdownCallback, options?: CallbackOptions): void;
    /** Runs them all. It never rejects: what goes wrong is in the report. */
    run(reason: string, deadline: number, log: FastifyBaseLogger): Promise<CallbackReport[]>;
}
